from pathlib import Path

import pytest

from samsdk.batch.prompts_file import ObjectPrompt, prompts_digest, read_prompts
from samsdk.errors import PromptError

GLAND = ObjectPrompt("gland", points=((316.0, 400.0), (250.0, 320.5)), labels=(1.0, 0.0))
LUMEN = ObjectPrompt("lumen", box=(250.0, 302.0, 384.0, 510.0))
HEART = ObjectPrompt(points_mm=((3.5, 4.0),), box_mm=(1.0, 2.0, 9.0, 8.0), frame=2)
EXPECTED = {"ward/a.png": (GLAND, LUMEN), "b.dcm": (HEART,)}

CSV = """file,object,points,labels,box,points_mm,box_mm,frame
ward/a.png,gland,"316,400;250,320.5",1;0,,,,
ward\\a.png,lumen,,,"250, 302, 384, 510",,,
./b.dcm,,,,,3.5 4,"1,2,9,8",2
"""
JSON = """[
  {"file": "ward/a.png", "object": "gland", "points": [[316, 400], [250, 320.5]], "labels": [1, 0]},
  {"file": "ward/a.png", "object": "lumen", "box": [250, 302, 384, 510]},
  {"file": "b.dcm", "points_mm": [[3.5, 4]], "box_mm": [1, 2, 9, 8], "frame": 2, "box": null}
]"""


def write(folder: Path, name: str, text: str, encoding: str = "utf-8") -> Path:
    (folder / name).write_text(text, encoding=encoding)
    return folder / name


@pytest.mark.parametrize(
    ("name", "text", "encoding"),
    [
        ("p.csv", CSV, "utf-8"),
        ("p.CSV", CSV.replace("\n", "\r\n"), "utf-8-sig"),
        ("p.csv", CSV.replace('"316,400;250,320.5"', '"[[316, 400], [250, 320.5]]"'), "utf-8"),
        ("p.csv", CSV.replace("1;0", "1 0").replace('"', "'").replace(",", "\t").replace("'", ""), "utf-8"),
        ("p.json", JSON, "utf-8"),
    ],
)
def test_one_meaning_in_every_form(tmp_path: Path, name: str, text: str, encoding: str) -> None:
    # Tabs between cells: commas within the cells were replaced too, and numbers are parted by any white space.
    text = text.replace("316\t400;250\t320.5", "316 400 250 320.5").replace("250\t 302\t 384\t 510", "250 302 384 510")
    text = text.replace("1\t2\t9\t8", "1 2 9 8")
    assert read_prompts(write(tmp_path, name, text, encoding)) == EXPECTED


def test_semicolons_between_cells(tmp_path: Path) -> None:
    text = "file;object;box\na.png;lumen;250,302,384,510\n"
    assert read_prompts(write(tmp_path, "p.csv", text)) == {"a.png": (LUMEN,)}


def test_the_digest_is_of_what_is_asked_for(tmp_path: Path) -> None:
    csv, json = (read_prompts(write(tmp_path, name, text)) for name, text in (("p.csv", CSV), ("p.json", JSON)))
    assert prompts_digest(csv) == prompts_digest(json)
    moved = read_prompts(write(tmp_path, "q.csv", CSV.replace("320.5", "320.6")))
    assert prompts_digest(moved) != prompts_digest(csv)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("file,box\na.png,1\n", "line 2: expected box as x0,y0,x1,y1"),
        ("file,points\na.png,1\n\nb.png,5 x\n", "line 2: expected points as pairs"),
        ("file,points\na.png,1 2\nb.png,5 x\n", "line 3: expected points as numbers"),
        ("file,points\na.png,1 nan\n", "line 2: expected points as finite numbers"),
        ("file,frame\na.png,1.5\n", "line 2: expected the number of a frame"),
        ("file,box\na.png,1,2,3,4\n", "line 2 has more cells than the header"),
        ("file,box\n../a.png,\n", "relative to the folder and within it"),
        ("file,box\n/a.png,\n", "relative to the folder and within it"),
        ("file,box\nC:\\a.png,\n", "relative to the folder and within it"),
        ("file,box\n,1 2 3 4\n", "expected the name of a file"),
        ("image,box\na.png,\n", "must name file"),
        ("file,bbox\na.png,\n", "got file, bbox"),
        ("file,object\na.png,x\na.png,x\n", "several objects called x"),
        ("file,object\n", "names no file"),
        ("", "got nothing"),
    ],
)
def test_what_is_wrong_and_where(tmp_path: Path, text: str, problem: str) -> None:
    with pytest.raises(PromptError, match=problem):
        read_prompts(write(tmp_path, "p.csv", text))


@pytest.mark.parametrize(
    ("name", "text", "problem"),
    [
        ("p.json", "{}", "a JSON list of objects"),
        ("p.json", "[{]", "cannot read the prompts file p.json"),
        ("p.json", '[{"file": 3}]', "object 1: expected the name of a file"),
        ("p.txt", CSV, "ends in .csv or .json"),
    ],
)
def test_files_that_are_none(tmp_path: Path, name: str, text: str, problem: str) -> None:
    with pytest.raises(PromptError, match=problem):
        read_prompts(write(tmp_path, name, text))
    with pytest.raises(PromptError, match=r"absent\.csv: No such file"):
        read_prompts(tmp_path / "absent.csv")
