import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from samsdk.errors import OutputError
from samsdk_training.data import LabelledImage, read_set
from samsdk_training.synthesis import SynthesisConfig, Synthesiser, folder
from samsdk_training.synthesis.folder import synthesis_sheet, write_synthetic_set


@pytest.fixture
def synthesiser(exemplar: LabelledImage, grounds: dict[str, NDArray[np.uint8]]) -> Synthesiser:
    return Synthesiser([exemplar], list(grounds), grounds.__getitem__, SynthesisConfig(), seed=9)


def test_what_is_read_back_is_the_stream(synthesiser: Synthesiser, tmp_path: Path) -> None:
    names = write_synthetic_set(synthesiser, tmp_path / "out", 5, {1: "liver", 2: "spleen", 3: "aorta"})
    read = list(read_set(tmp_path / "out"))
    assert [one.name for one in read] == names == [f"synthetic_{index:04d}" for index in range(5)]
    record = json.loads((tmp_path / "out" / "synthesis.json").read_text())
    for index, one in enumerate(read):
        made = synthesiser.sample(index)
        assert np.array_equal(one.image, made.image)
        assert np.array_equal(one.label, made.label)
        assert not one.instances
        assert record["images"][one.name] == {"exemplar": "exemplar", "background": made.background}
    assert json.loads((tmp_path / "out" / "labels.json").read_text()) == {"1": "liver", "2": "spleen", "3": "aorta"}
    assert SynthesisConfig.from_dict(record["config"]) == synthesiser.config
    assert (record["seed"], record["exemplars"]) == (9, ["exemplar"])


def test_classes_without_names_are_numbered(synthesiser: Synthesiser, tmp_path: Path) -> None:
    write_synthetic_set(synthesiser, tmp_path / "out", 1)
    expected = {str(value): f"class {value}" for value in (1, 2, 3)}
    assert json.loads((tmp_path / "out" / "labels.json").read_text()) == expected


def test_a_write_that_fails_leaves_nothing(
    synthesiser: Synthesiser, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, array: NDArray[np.uint8]) -> None:
        if path.name == "synthetic_0002.png":
            raise OutputError("no space left on device")
        write_png(path, array)

    write_png = folder.write_png
    monkeypatch.setattr(folder, "write_png", full)
    with pytest.raises(OutputError, match="no space"):
        write_synthetic_set(synthesiser, tmp_path / "out", 5)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_with_something_in_it_is_kept(synthesiser: Synthesiser, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(OutputError, match="is no empty folder"):
        write_synthetic_set(synthesiser, tmp_path, 1)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]
    with pytest.raises(ValueError, match="at least 1"):
        write_synthetic_set(synthesiser, tmp_path / "new", 0)
    (tmp_path / "empty").mkdir()
    assert len(write_synthetic_set(synthesiser, tmp_path / "empty", 1)) == 1


def test_the_sheet_shows_origin_and_result(
    synthesiser: Synthesiser, exemplar: LabelledImage, grounds: dict[str, NDArray[np.uint8]]
) -> None:
    # Cells of the images' own width: nothing is resampled.
    sheet = synthesis_sheet(synthesiser, 1, first=3, side=120)
    cells = [sheet[2 : 2 + 96, 2 + 122 * place : 122 + 122 * place] for place in range(4)]
    made = synthesiser.sample(3)
    assert made.background in grounds
    assert (cells[1] == grounds[made.background][..., None]).all()
    assert (cells[2] == made.image[..., None]).all()
    for cell, image, label in ((cells[0], exemplar.image, exemplar.label), (cells[3], made.image, made.label)):
        changed = (cell != image[..., None]).any(axis=2)
        edge = np.zeros_like(changed)
        for value in (1, 2, 3):
            mask = (label == value).astype(np.uint8)
            edge |= (mask > 0) & (cv2.erode(mask, cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3))) == 0)
        # Outlines lie on the outermost pixels of each class, and nowhere else but where the frame cuts an object off.
        assert not (changed & (label == 0)).any()
        assert (changed & edge).sum() > 0.9 * edge[1:-1, 1:-1].sum()
        colours = {value: np.unique(cell[changed & (label == value)], axis=0).tolist() for value in (1, 2, 3)}
        assert all(len(one) == 1 for one in colours.values())
        assert len({tuple(one[0]) for one in colours.values()}) == 3
