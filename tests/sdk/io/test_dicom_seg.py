import copy
import logging
import sys
import warnings
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.data import get_testdata_file
from pydicom.uid import generate_uid

from samsdk.errors import ImageError, MissingExtraError, OutputError
from samsdk.io.dicom import Source
from samsdk.io.dicom_derived import Concept
from samsdk.io.dicom_seg import Segment, segment_each, write_segmentation
from samsdk.io.objects import ObjectMask
from samsdk.masks import Region

pytest.importorskip("highdicom", reason="needs the extra medical")


def packaged(name: str) -> Path:
    return Path(str(get_testdata_file(name, download=False)))


def noise(size: tuple[int, int], seed: int) -> np.ndarray:
    return np.random.default_rng(seed).random(size) < 0.3


def found(mask: np.ndarray, name: str = "object", source: Source | None = None) -> ObjectMask:
    return ObjectMask(Region(mask.shape, 0, 0, mask), name, 0.9, "small@0123", source=source)


def source_of(dataset: pydicom.Dataset, frame: int | None = None) -> Source:
    return Source(dataset.SOPClassUID, dataset.SOPInstanceUID, frame=frame)


def reference(dataset: pydicom.Dataset, frame: int) -> pydicom.Dataset:
    groups = dataset.PerFrameFunctionalGroupsSequence[frame]
    return groups.DerivationImageSequence[0].SourceImageSequence[0]


def slices(folder: Path, count: int) -> list[Path]:
    """Slices 4 mm apart, in an order that is not that of their positions."""
    paths = []
    for index in range(count):
        dataset = pydicom.dcmread(packaged("CT_small.dcm"))
        dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = generate_uid()
        dataset.ImagePositionPatient = [-158.0, -179.0, -75.0 - 4.0 * (index * 2 % count)]
        paths.append(folder / f"{index}.dcm")
        dataset.save_as(paths[-1])
    return paths


# A CT, a big-endian MR, ultrasound without position or identity, colour, two frames, thirty of ultrasound.
@pytest.mark.parametrize(
    ("name", "frame"),
    [
        ("CT_small.dcm", None),
        ("MR_small_bigendian.dcm", None),
        ("ExplVR_BigEnd.dcm", None),
        ("SC_rgb_small_odd.dcm", None),
        ("SC_rgb_rle_2frame.dcm", 2),
        ("examples_ybr_color.dcm", 17),
    ],
)
def test_pydicom_reads_the_same_masks_and_where_they_belong(tmp_path: Path, name: str, frame: int | None) -> None:
    image = pydicom.dcmread(packaged(name))
    masks = [
        noise((image.Rows, image.Columns), seed) | np.eye(image.Rows, image.Columns, dtype=bool) for seed in (0, 1)
    ]
    objects = [found(mask, source=source_of(image, frame)) for mask in masks]
    write_segmentation(tmp_path / "seg.dcm", segment_each(objects), packaged(name))
    written = pydicom.dcmread(tmp_path / "seg.dcm")
    # The two overlap, so that each has to have its own frame.
    np.testing.assert_array_equal(written.pixel_array, masks)
    assert (written.SOPClassUID.name, written.SegmentationType) == ("Segmentation Storage", "BINARY")
    assert (written.BitsAllocated, written.SegmentsOverlap) == (1, "YES")
    for index in (0, 1):
        assert reference(written, index).ReferencedSOPInstanceUID == image.SOPInstanceUID
        assert reference(written, index).ReferencedSOPClassUID == image.SOPClassUID
        assert reference(written, index).get("ReferencedFrameNumber") == frame
    assert written.ReferencedSeriesSequence[0].ReferencedInstanceSequence[0].ReferencedSOPClassUID == image.SOPClassUID
    assert written.ReferencedSeriesSequence[0].SeriesInstanceUID == image.SeriesInstanceUID
    measures = written.SharedFunctionalGroupsSequence[0].get("PixelMeasuresSequence")
    assert (measures[0].PixelSpacing if measures else None) == image.get("PixelSpacing")
    for tag in ("PatientID", "PatientName", "StudyInstanceUID", "FrameOfReferenceUID", "AccessionNumber"):
        assert (written.get(tag) or None) == (image.get(tag) or None)
    assert written.SeriesInstanceUID != image.SeriesInstanceUID
    assert list(tmp_path.iterdir()) == [tmp_path / "seg.dcm"]


def test_segments_say_what_they_are_and_who_made_them(tmp_path: Path) -> None:
    mask = noise((128, 128), 0)
    concepts = {"liver": (Concept("91723000", "Anatomical Structure"), Concept("10200004", "Liver"))}
    segments = segment_each([found(mask, "liver"), found(~mask, "cyst"), found(~mask, "cyst")], concepts)
    segments.append(Segment([found(mask)], "mine", tracking_uid="1.2.3"))
    write_segmentation(tmp_path / "seg.dcm", segments, packaged("CT_small.dcm").read_bytes())
    items = pydicom.dcmread(tmp_path / "seg.dcm").SegmentSequence
    assert [item.SegmentLabel for item in items] == ["liver", "cyst 1", "cyst 2", "mine"]
    kinds = [item.SegmentedPropertyTypeCodeSequence[0] for item in items]
    assert [(kind.CodeValue, kind.CodingSchemeDesignator) for kind in kinds[:2]] == [
        ("10200004", "SCT"),
        ("85756007", "SCT"),
    ]
    assert items[0].SegmentedPropertyCategoryCodeSequence[0].CodeMeaning == "Anatomical Structure"
    algorithm = items[0].SegmentationAlgorithmIdentificationSequence[0]
    assert (algorithm.AlgorithmName, algorithm.AlgorithmParameters) == ("samsdk", "bundle=small@0123")
    assert items[0].SegmentAlgorithmType == "SEMIAUTOMATIC"
    assert items[3].TrackingUID == "1.2.3"
    assert len({item.TrackingUID for item in items}) == 4


def test_ultrasound_frames_have_the_spacing_of_their_regions(tmp_path: Path) -> None:
    image = pydicom.dcmread(packaged("examples_rgb_color.dcm"))
    region = pydicom.Dataset()
    region.RegionSpatialFormat, region.PhysicalUnitsXDirection, region.PhysicalUnitsYDirection = 1, 3, 3
    region.PhysicalDeltaX, region.PhysicalDeltaY = 0.02, 0.03
    region.RegionLocationMinX0 = region.RegionLocationMinY0 = 0
    region.RegionLocationMaxX1, region.RegionLocationMaxY1 = image.Columns - 1, image.Rows - 1
    image.SequenceOfUltrasoundRegions = [region]
    image.save_as(tmp_path / "us.dcm")
    mask = noise((image.Rows, image.Columns), 0)
    write_segmentation(tmp_path / "seg.dcm", segment_each([found(mask)]), tmp_path / "us.dcm")
    measures = pydicom.dcmread(tmp_path / "seg.dcm").SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
    assert measures.PixelSpacing == [0.3, 0.2]  # rows first


def test_a_series_is_found_again_slice_by_slice(tmp_path: Path) -> None:
    paths = slices(tmp_path, 5)
    headers = [pydicom.dcmread(path) for path in paths]
    masks = {index: noise((128, 128), index) for index in (0, 1, 3)}
    lesion = Segment([found(mask, source=source_of(headers[index])) for index, mask in masks.items()], "lesion")
    other = Segment([found(~masks[3], source=source_of(headers[3]))], "other")
    write_segmentation(tmp_path / "seg.dcm", [lesion, other], paths)
    written = pydicom.dcmread(tmp_path / "seg.dcm")
    assert (written.NumberOfFrames, written.SegmentsOverlap) == (4, "NO")
    by_uid = {header.SOPInstanceUID: index for index, header in enumerate(headers)}
    seen = []
    for frame, groups in enumerate(written.PerFrameFunctionalGroupsSequence):
        index = by_uid[reference(written, frame).ReferencedSOPInstanceUID]
        segment = groups.SegmentIdentificationSequence[0].ReferencedSegmentNumber
        np.testing.assert_array_equal(written.pixel_array[frame], masks[index] if segment == 1 else ~masks[index])
        position = groups.PlanePositionSequence[0].ImagePositionPatient
        assert position == headers[index].ImagePositionPatient
        seen.append((index, segment))
    assert sorted(seen) == [(0, 1), (1, 1), (3, 1), (3, 2)]
    assert len(written.ReferencedSeriesSequence[0].ReferencedInstanceSequence) == 5


def test_frames_of_an_enhanced_object_are_found_again(tmp_path: Path) -> None:
    from highdicom.legacy import LegacyConvertedEnhancedCTImage

    headers = [pydicom.dcmread(path) for path in slices(tmp_path, 3)]
    enhanced = LegacyConvertedEnhancedCTImage(headers, generate_uid(), 1, generate_uid(), 1)
    enhanced.save_as(tmp_path / "enhanced.dcm")
    mask = noise((128, 128), 0)
    segments = segment_each([found(mask, source=source_of(enhanced, 2))])
    write_segmentation(tmp_path / "seg.dcm", segments, tmp_path / "enhanced.dcm")
    written = pydicom.dcmread(tmp_path / "seg.dcm")
    np.testing.assert_array_equal(written.pixel_array, mask)
    assert reference(written, 0).ReferencedFrameNumber == 2
    there = enhanced.PerFrameFunctionalGroupsSequence[1].PlanePositionSequence[0].ImagePositionPatient
    assert written.PerFrameFunctionalGroupsSequence[0].PlanePositionSequence[0].ImagePositionPatient == there


def test_masks_that_do_not_belong_are_refused(tmp_path: Path) -> None:
    mask = noise((128, 128), 0)
    ct, path = packaged("CT_small.dcm"), tmp_path / "seg.dcm"
    with pytest.raises(ImageError, match=r"the DICOM image is \(128, 128\) \(H, W\), a mask of it \(64, 128\)"):
        write_segmentation(path, segment_each([found(mask[:64])]), ct)
    with pytest.raises(ImageError, match="of another DICOM object than those given"):
        write_segmentation(path, segment_each([found(mask, source=Source("1.2", "1.2.3"))]), ct)
    with pytest.raises(ImageError, match="does not know which slice or frame"):
        write_segmentation(path, segment_each([found(mask)]), slices(tmp_path, 2))
    with pytest.raises(ImageError, match="got one of them twice"):
        write_segmentation(path, segment_each([found(mask)]), [ct, ct])
    film = packaged("examples_ybr_color.dcm")
    image = pydicom.dcmread(film)
    wide = noise((240, 320), 0)
    two = Segment([found(wide, source=source_of(image, frame)) for frame in (1, 2)], "moving")
    with pytest.raises(ImageError, match="2 frames of images without a position"):
        write_segmentation(path, [two], film)
    assert not path.exists()


def test_nothing_found_is_no_file(tmp_path: Path) -> None:
    ct = packaged("CT_small.dcm")
    with pytest.raises(OutputError, match="got 0"):
        write_segmentation(tmp_path / "seg.dcm", [], ct)
    with pytest.raises(OutputError, match="segment 1 has no pixel"):
        write_segmentation(tmp_path / "seg.dcm", segment_each([found(np.zeros((128, 128), bool))]), ct)
    twice = [Segment([found(noise((128, 128), 0))], "same")] * 2
    with pytest.raises(OutputError, match="one label twice"):
        write_segmentation(tmp_path / "seg.dcm", twice, ct)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "message"),
    [("rtplan.dcm", "an object without pixels"), ("JPEGLSNearLossless_08.dcm", "lacks StudyInstanceUID, SeriesInst")],
)
def test_sources_that_nothing_can_refer_to_are_refused(tmp_path: Path, name: str, message: str) -> None:
    with pytest.raises(ImageError, match=message):
        write_segmentation(tmp_path / "seg.dcm", segment_each([found(noise((45, 10), 0))]), packaged(name))
    (tmp_path / "a.dcm").write_bytes(b"no DICOM")
    with pytest.raises(ImageError, match="without DICOM's header"):
        write_segmentation(tmp_path / "seg.dcm", segment_each([found(noise((45, 10), 0))]), tmp_path / "a.dcm")


def test_nobody_is_named_in_errors_logs_or_warnings(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    image = copy.deepcopy(pydicom.dcmread(packaged("CT_small.dcm")))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        image.PatientName = "Secret^Name^^^^^^secret"
        image.PatientSex = "SECRET"
        image.PatientBirthDate = "secret"
        image.save_as(tmp_path / "a.dcm")
        del image.ImageOrientationPatient
        image.save_as(tmp_path / "b.dcm")
    objects = segment_each([found(noise((128, 128), 0))])
    caplog.clear()  # pydicom told of the values above when they were set
    caplog.set_level(logging.DEBUG)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        write_segmentation(tmp_path / "seg.dcm", objects, tmp_path / "a.dcm")
        with pytest.raises(ImageError, match="highdicom cannot make an object") as refused:
            write_segmentation(tmp_path / "seg.dcm", objects, tmp_path / "b.dcm")
    assert refused.value.__suppress_context__
    assert "secret" not in (str(refused.value) + caplog.text + str([str(one.message) for one in told])).lower()
    written = pydicom.dcmread(tmp_path / "seg.dcm")
    assert (str(written.PatientName), written.PatientSex) == ("Secret^Name^^^^^^secret", "")
    assert logging.getLogger("highdicom").level == logging.NOTSET


def test_without_highdicom_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "highdicom", None)
    with pytest.raises(MissingExtraError, match=r"writing DICOM needs highdicom: pip install 'samsdk\[medical\]'"):
        write_segmentation(tmp_path / "seg.dcm", segment_each([found(noise((128, 128), 0))]), packaged("CT_small.dcm"))
