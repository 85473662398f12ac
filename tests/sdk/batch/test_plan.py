import os
from pathlib import Path

from samsdk.batch.plan import FileTask, output_stems, plan_all, plan_prompted
from samsdk.batch.prompts_file import ObjectPrompt

DICOM = b"\0" * 128 + b"DICM"


def fill(folder: Path) -> None:
    files = {"b.png": b"", "a.JPG": b"", "deep/er/c.tif": b"", "scan": DICOM, "notes": b"text", "ct.nii.gz": b""}
    hidden = {".hidden.png": b"", ".cache/d.png": b"", "run/masks/e.png/object.png": b""}
    for name, content in {**files, **hidden, "folder.png/f.png": b""}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    os.mkfifo(folder / "pipe")


def test_images_by_name_or_header_and_the_rest_with_its_reason(tmp_path: Path) -> None:
    fill(tmp_path)
    plan = plan_all(tmp_path, tmp_path / "run", volumes=False)
    names = ["a.JPG", "b.png", "scan", "deep/er/c.tif", "folder.png/f.png"]
    assert plan.tasks == tuple(map(FileTask, names))
    assert {outcome.file: outcome.rows[0].message for outcome in plan.others} == {
        "ct.nii.gz": "a volume; the bundle is for images",
        "notes": "not an image by its name, and no DICOM file",
        "pipe": "not an image by its name, and no DICOM file",
        "folder.png": "a folder; the files in it are taken",
    }
    assert {outcome.state for outcome in plan.others} == {"skipped"}


def test_volumes(tmp_path: Path) -> None:
    fill(tmp_path)
    plan = plan_all(tmp_path, tmp_path / "run", volumes=True)
    assert plan.tasks == (FileTask("ct.nii.gz"),)
    assert "deep/er/c.tif" in {outcome.file for outcome in plan.others}


def test_what_a_prompts_file_names_whether_it_is_there_or_not(tmp_path: Path) -> None:
    fill(tmp_path)
    prompts = {
        "z.png": (ObjectPrompt("x"),),
        "b.png": (ObjectPrompt("y"), ObjectPrompt("z")),
        "folder.png": (ObjectPrompt(),),
    }
    plan = plan_prompted(tmp_path, prompts, tmp_path / "run")
    assert plan.tasks == tuple(FileTask(name, prompts[name]) for name in ("b.png", "folder.png", "z.png"))
    skipped = {outcome.file for outcome in plan.others}
    assert skipped >= {"a.JPG", "ct.nii.gz", "deep/er/c.tif"}
    assert not skipped & {"b.png", "folder.png", "notes"}


def test_no_two_objects_share_a_file() -> None:
    names = ["left/right", "left right", "LEFT_RIGHT", "", "..", "Niere é", "x" * 300, "x" * 299]
    stems = output_stems([ObjectPrompt(name) for name in names])
    assert stems[:6] == ["left_right", "left_right-2", "LEFT_RIGHT-3", "object-4", "object-5", "Niere_é"]
    assert len({stem.casefold() for stem in stems}) == len(names)
    assert max(map(len, stems)) < 90
    assert output_stems([ObjectPrompt()]) == ["object"]
