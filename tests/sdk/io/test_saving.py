"""Results that refer to the file that was segmented, as the commands write them."""

import json
from collections.abc import Callable
from pathlib import Path

import cv2
import highdicom.seg
import numpy as np
import pydicom
import pytest
from numpy.typing import NDArray
from pycocotools import mask as coco
from pydicom.data import get_testdata_file

import samsdk
from samsdk.everything import segment_everything
from samsdk.io.saving import save_result

CT = Path(str(get_testdata_file("CT_small.dcm", download=False)))
BOX = (30, 30, 90, 90)
PROMPT = ("--box", "30,30,90,90", "--device", "cpu")
Run = Callable[..., tuple[int, str, str]]


def test_segment_writes_a_dicom_segmentation(tmp_path: Path, run: Run) -> None:
    code, out, err = run("segment", CT, *PROMPT, "-o", tmp_path / "mask.dcm", "--json")
    assert code == 0, err
    assert json.loads(out)["output"] == str(tmp_path / "mask.dcm")
    expected, source = samsdk.segment(CT, box=BOX, device="cpu"), pydicom.dcmread(CT)
    written = highdicom.seg.segread(tmp_path / "mask.dcm")
    np.testing.assert_array_equal(written.pixel_array > 0, expected.mask)
    assert (written.PatientID, written.StudyInstanceUID) == (source.PatientID, source.StudyInstanceUID)
    ((_, _, instance),) = written.get_source_image_uids()
    assert instance == source.SOPInstanceUID


def test_a_frame_is_referred_to(tmp_path: Path, run: Run) -> None:
    name = Path(str(get_testdata_file("SC_rgb_rle_2frame.dcm", download=False)))
    code, _, err = run("segment", name, "--frame", "1", "--point", "50,50", "-o", tmp_path / "m.dcm", "--device", "cpu")
    assert code == 0, err
    groups = pydicom.dcmread(tmp_path / "m.dcm").PerFrameFunctionalGroupsSequence[0]
    assert groups.DerivationImageSequence[0].SourceImageSequence[0].ReferencedFrameNumber == 2


def test_everything_writes_a_segment_for_each_object(tmp_path: Path, run: Run) -> None:
    code, _, err = run("everything", CT, "--layers", "0", "-o", tmp_path / "all.dcm", "--device", "cpu")
    assert code == 0, err
    assert highdicom.seg.segread(tmp_path / "all.dcm").number_of_segments > 1


@pytest.mark.parametrize("command", [("segment", *PROMPT), ("everything", "--layers", "0")])
def test_an_image_that_is_no_dicom_file_is_refused(
    tmp_path: Path, cell: NDArray[np.uint8], command: tuple[str, ...], run: Run
) -> None:
    cv2.imwrite(str(tmp_path / "cell.png"), cell[100:228, 100:228])
    word, *options = command
    code, _, err = run(word, tmp_path / "cell.png", *options, "-o", tmp_path / "mask.dcm")
    assert code == 1
    assert "cannot write mask.dcm: a DICOM segmentation refers to the DICOM image that was segmented" in err
    assert not (tmp_path / "mask.dcm").exists()


def test_a_segmentation_of_nothing_is_refused(tmp_path: Path) -> None:
    nothing = segment_everything(samsdk.load(device="cpu"), samsdk.Scan(np.zeros((40, 40), np.uint8), source=source()))
    with pytest.raises(samsdk.OutputError, match="nothing was found"):
        save_result(nothing, tmp_path / "mask.dcm", CT)


def source() -> samsdk.Source | None:
    return samsdk.read_scan(CT).source


def test_polygons_give_pycocotools_the_same_mask(tmp_path: Path, run: Run) -> None:
    code, _, err = run("segment", CT, *PROMPT, "-o", tmp_path / "m.coco.json", "--polygons")
    assert code == 0, err
    document = json.loads((tmp_path / "m.coco.json").read_text())
    (annotation,), (image,) = document["annotations"], document["images"]
    runs = coco.merge(coco.frPyObjects(annotation["segmentation"], image["height"], image["width"]))
    np.testing.assert_array_equal(coco.decode(runs) > 0, samsdk.segment(CT, box=BOX, device="cpu").mask)
    assert image["spacing_mm"] == pytest.approx([0.661468, 0.661468])
    assert run("segment", CT, *PROMPT, "-o", tmp_path / "m.json", "--polygons")[0] == 2
    assert run("segment", CT, *PROMPT, "--variations", "3")[0] == 2
