import sys
from pathlib import Path

import cv2
import numpy as np
import pydicom
import pytest
from pydicom.data import get_testdata_file

from samsdk.errors import ImageError, MissingExtraError
from samsdk.io.dicom import Source
from samsdk.io.dicom_derived import Concept
from samsdk.io.dicom_report import write_report
from samsdk.io.dicom_seg import segment_each, write_segmentation
from samsdk.io.objects import ObjectMask
from samsdk.masks import Region
from samsdk.measuring import measure

highdicom = pytest.importorskip("highdicom", reason="needs the extra medical")

CODES = {
    "42798000": "area",
    "131191004": "perimeter",
    ("81827009", "56851009"): "longest_diameter",
    ("81827009", "255605001"): "shortest_diameter",
    "74551000": "ellipse_circumference",
    "131187009": "ellipse_major",
    "131188004": "ellipse_minor",
}


def packaged(name: str) -> Path:
    return Path(str(get_testdata_file(name, download=False)))


def ellipse(size: tuple[int, int], axes: tuple[int, int]) -> np.ndarray:
    mask = np.zeros(size, np.uint8)
    cv2.ellipse(mask, (size[1] // 2, size[0] // 2), axes, 30, 0, 360, 1, -1)
    return mask > 0


def written(folder: Path, name: str, masks: list[np.ndarray], frame: int | None = None) -> Path:
    image = pydicom.dcmread(packaged(name))
    source = Source(image.SOPClassUID, image.SOPInstanceUID, frame=frame)
    objects = [ObjectMask(Region(mask.shape, 0, 0, mask), "liver", source=source) for mask in masks]
    concepts = {"liver": (Concept("91723000", "Anatomical Structure"), Concept("10200004", "Liver"))}
    write_segmentation(folder / "seg.dcm", segment_each(objects, concepts), packaged(name))
    write_report(folder / "report.dcm", folder / "seg.dcm", packaged(name))
    return folder / "report.dcm"


def values(group: pydicom.Dataset) -> dict[str, tuple[float, str]]:
    """What a measurement group says, from its elements alone."""
    found = {}
    for item in group.ContentSequence:
        if item.ValueType == "NUM":
            code = item.ConceptNameCodeSequence[0].CodeValue
            modifiers = [one.ConceptCodeSequence[0].CodeValue for one in item.get("ContentSequence", [])]
            value = item.MeasuredValueSequence[0]
            unit = value.MeasurementUnitsCodeSequence[0]
            assert unit.CodingSchemeDesignator == "UCUM"
            found[CODES[(code, *modifiers) if modifiers else code]] = (float(value.NumericValue), unit.CodeValue)
    return found


def groups(path: Path) -> list[pydicom.Dataset]:
    report = pydicom.dcmread(path)
    (measurements,) = (
        item for item in report.ContentSequence if item.ConceptNameCodeSequence[0].CodeMeaning == "Imaging Measurements"
    )
    return list(measurements.ContentSequence)


def test_pydicom_reads_what_was_measured_in_millimetres(tmp_path: Path) -> None:
    masks = [ellipse((128, 128), (40, 22)), ellipse((128, 128), (12, 12))]
    for group, mask in zip(groups(written(tmp_path, "CT_small.dcm", masks)), masks, strict=True):
        expected = measure(mask, (0.661468, 0.661468)).mm
        assert expected is not None
        found = values(group)
        assert set(found) == set(CODES.values())
        for name, (value, unit) in found.items():
            assert unit == ("mm2" if name == "area" else "mm")
            assert value == pytest.approx(expected.values()[f"{name}_{unit}"], rel=1e-9)
    # A circle's area, not only what this package says it is.
    assert found["area"][0] == pytest.approx(np.pi * (12.5 * 0.661468) ** 2, rel=0.05)


def test_without_a_spacing_everything_is_in_pixels(tmp_path: Path) -> None:
    mask = ellipse((240, 320), (60, 30))
    (group,) = groups(written(tmp_path, "examples_ybr_color.dcm", [mask], frame=4))
    found = values(group)
    assert found["area"] == (np.count_nonzero(mask), "{pixels}")
    assert {unit for _, unit in found.values()} == {"{pixels}"}
    images = [item for item in group.ContentSequence if item.ValueType == "IMAGE"]
    assert [item.ReferencedSOPSequence[0].ReferencedFrameNumber for item in images] == [1, 4]


def test_highdicom_finds_the_segment_its_name_and_its_image(tmp_path: Path) -> None:
    mask = ellipse((128, 128), (40, 22))
    path = written(tmp_path, "CT_small.dcm", [mask, ~mask])
    image, segmentation = pydicom.dcmread(packaged("CT_small.dcm")), pydicom.dcmread(tmp_path / "seg.dcm")
    report = highdicom.sr.srread(path)
    found = report.content.get_planar_roi_measurement_groups()
    for number, (group, segment) in enumerate(zip(found, segmentation.SegmentSequence, strict=True), 1):
        assert (group.tracking_uid, group.tracking_identifier) == (segment.TrackingUID, f"liver {number}")
        assert (group.finding_type.value, group.finding_category.value) == ("10200004", "91723000")
        frame = group.referenced_segmentation_frame
        assert frame[0].referenced_sop_instance_uid == segmentation.SOPInstanceUID
        assert frame[0].referenced_frame_numbers == [number]
        assert frame[1].referenced_sop_instance_uid == image.SOPInstanceUID
    evidence = {
        reference.ReferencedSOPInstanceUID
        for study in report.CurrentRequestedProcedureEvidenceSequence
        for series in study.ReferencedSeriesSequence
        for reference in series.ReferencedSOPSequence
    }
    assert evidence == {image.SOPInstanceUID, segmentation.SOPInstanceUID}
    assert (report.PatientID, report.StudyInstanceUID) == (image.PatientID, image.StudyInstanceUID)
    assert (report.CompletionFlag, report.VerificationFlag) == ("COMPLETE", "UNVERIFIED")
    (observer,) = report.content.get_observer_contexts()
    assert observer.observer_identifying_attributes.name == "samsdk"
    assert report.ContentTemplateSequence[0].TemplateIdentifier == "1500"


def test_what_does_not_belong_together_is_refused(tmp_path: Path) -> None:
    written(tmp_path, "CT_small.dcm", [ellipse((128, 128), (40, 22))])
    before = (tmp_path / "report.dcm").read_bytes()
    with pytest.raises(ImageError, match="the segmentation is of other DICOM files"):
        write_report(tmp_path / "report.dcm", tmp_path / "seg.dcm", packaged("MR_small.dcm"))
    with pytest.raises(ImageError, match="expected a binary DICOM segmentation"):
        write_report(tmp_path / "report.dcm", packaged("CT_small.dcm"), packaged("CT_small.dcm"))
    assert (tmp_path / "report.dcm").read_bytes() == before


def test_without_highdicom_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "highdicom", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'samsdk\[medical\]'"):
        write_report(tmp_path / "a.dcm", packaged("CT_small.dcm"), packaged("CT_small.dcm"))
