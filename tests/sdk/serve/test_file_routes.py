"""Files to download, read back by code that is not ours."""

import io
import zipfile
from pathlib import Path
from typing import Any

import cv2
import highdicom
import nibabel
import numpy as np
import pydicom.data
import pytest
from pycocotools.coco import COCO

from samsdk.serve.limits import Limits

BOX = [120, 100, 300, 260]
POINT = [200.5, 180.25]
CT = Path(str(pydicom.data.get_testdata_file("CT_small.dcm", download=False)))
DICOM = {"content-type": "application/dicom"}


def test_files_open_elsewhere_and_hold_the_masks(api: Any, opened: str, tmp_path: Path) -> None:
    api.patch(opened, json={"spacing": [0.5, 0.25]})
    masks = [api.mask_of(api.ask(opened, **how)) for how in ({"points": [POINT]}, {"box": BOX})]
    api.patch(f"{opened}/objects/2", json={"name": "gland"})
    together = np.zeros(masks[0].shape, np.uint8)
    for number, mask in enumerate(masks, 1):
        together[mask] = number

    def fetch(kind: str, name: str, query: str = "") -> Path:
        reply = api.get(f"{opened}/files/{kind}{query}")
        assert reply.status_code == 200
        assert f'filename="{name}"' in reply.headers["content-disposition"]
        (tmp_path / name).write_bytes(reply.content)
        return tmp_path / name

    single = cv2.imread(str(fetch("png", "object-2.png", "?object=2")), cv2.IMREAD_UNCHANGED)
    np.testing.assert_array_equal(single, masks[1] * np.uint8(255))
    plane = cv2.imread(str(fetch("png", "objects.png")), cv2.IMREAD_UNCHANGED)
    np.testing.assert_array_equal(plane, together)
    volume = nibabel.load(fetch("nifti", "objects.nii.gz"))
    np.testing.assert_array_equal(np.asarray(volume.dataobj)[:, :, 0].T, together)
    np.testing.assert_allclose(volume.header.get_zooms(), (0.5, 0.25, 1.0))
    coco = COCO(str(fetch("coco", "objects.json")))
    assert [one["name"] for one in coco.loadCats(coco.getCatIds())] == ["Object 1", "gland"]
    for annotation, mask in zip(coco.loadAnns(coco.getAnnIds()), masks, strict=True):
        np.testing.assert_array_equal(coco.annToMask(annotation).astype(bool), mask)
        assert annotation["area"] == np.count_nonzero(mask)


def test_what_there_is_no_file_of(api: Any, opened: str) -> None:
    assert api.get(f"{opened}/files/png").json()["error"] == "nothing"
    assert api.get(f"{opened}/files/bmp").status_code == 404
    assert api.get(f"{opened}/files/png?object=3").status_code == 404


def test_object_numbers_beyond_8_bits_stay_what_they_are(api: Any, opened: str) -> None:
    answer = api.ask(opened, box=BOX, object=300)
    plane = cv2.imdecode(np.frombuffer(api.get(f"{opened}/files/png").content, np.uint8), cv2.IMREAD_UNCHANGED)
    assert plane.dtype == np.uint16
    np.testing.assert_array_equal(plane, api.mask_of(answer) * np.uint16(300))


@pytest.fixture
def scanned(api: Any) -> str:
    """Path of a session of a DICOM image with two objects, one of them named."""
    session = f"/sessions/{api.upload(CT.read_bytes()).json()['id']}"
    api.ask(session, box=[30, 30, 90, 90])
    api.ask(session, points=[[64, 40]])
    assert api.patch(f"{session}/objects/2", json={"name": "a\\b" + "c" * 90}).status_code == 200
    return session


def test_a_dicom_segmentation_is_of_the_patient_that_it_was_made_of(api: Any, scanned: str) -> None:
    state = api.get(scanned)
    assert state.json()["dicom_formats"] == ["segmentation", "report"]
    image = pydicom.dcmread(CT)
    # The session itself has nothing of the patient.
    assert str(image.PatientID) not in state.text
    reply = api.post(f"{scanned}/dicom/segmentation", content=CT.read_bytes(), headers=DICOM)
    assert reply.status_code == 200, reply.text
    assert 'filename="objects.dcm"' in reply.headers["content-disposition"]
    made = highdicom.seg.segread(io.BytesIO(reply.content))
    assert (made.PatientID, made.StudyInstanceUID) == (image.PatientID, image.StudyInstanceUID)
    masks = made.get_pixels_by_source_instance([image.SOPInstanceUID], segment_numbers=[1, 2])[0].astype(bool)
    for number, mask in enumerate(np.moveaxis(masks, -1, 0), 1):
        answer = api.get(f"{scanned}/objects/{number}").json()["answer"]
        np.testing.assert_array_equal(mask, api.mask_of(answer))
    labels = [made.get_segment_description(number).segment_label for number in (1, 2)]
    assert labels == ["Object 1", "a/b" + "c" * 55]
    single = api.post(f"{scanned}/dicom/segmentation?object=2", content=CT.read_bytes(), headers=DICOM)
    assert highdicom.seg.segread(io.BytesIO(single.content)).number_of_segments == 1


def test_a_report_comes_with_the_segmentation_that_it_refers_to(api: Any, scanned: str) -> None:
    reply = api.post(f"{scanned}/dicom/report", content=CT.read_bytes(), headers=DICOM)
    assert reply.status_code == 200, reply.text
    with zipfile.ZipFile(io.BytesIO(reply.content)) as archive:
        assert sorted(archive.namelist()) == ["report.dcm", "segmentation.dcm"]
        made, report = (pydicom.dcmread(io.BytesIO(archive.read(f"{one}.dcm"))) for one in ("segmentation", "report"))
    groups = highdicom.sr.ComprehensiveSR.from_dataset(report).content.get_planar_roi_measurement_groups()
    frames = [group.referenced_segmentation_frame[0] for group in groups]
    assert [frame.referenced_sop_instance_uid for frame in frames] == [made.SOPInstanceUID] * 2
    areas = [one.value for group in groups for one in group.get_measurements() if one.name.meaning == "Area"]
    told = [api.get(f"{scanned}/objects/{number}").json()["answer"]["measures"] for number in (1, 2)]
    expected = [one["value"] for measures in told for one in measures if (one["name"], one["unit"]) == ("area", "mm²")]
    np.testing.assert_allclose(areas, expected, rtol=1e-6)


def test_dicom_files_of_too_many_pixels_are_not_decoded(calling: Any, tmp_path: Path) -> None:
    image = pydicom.dcmread(CT)
    image.Rows = image.Columns = 60_000
    image.save_as(tmp_path / "large.dcm")
    # Its first bytes, which mean nothing in DICOM, are those of a PNG of one pixel.
    disguise = cv2.imencode(".png", np.zeros((1, 1), np.uint8))[1].tobytes()[:33]
    large = (tmp_path / "large.dcm").read_bytes()
    (tmp_path / "disguised.dcm").write_bytes(disguise + large[len(disguise) :])
    image = pydicom.dcmread(CT)
    image.PixelData = bytes(10**6)
    image.file_meta.TransferSyntaxUID = pydicom.uid.DeflatedExplicitVRLittleEndian
    image.save_as(tmp_path / "deflated.dcm")
    with calling(limits=Limits(pixels=128 * 128)) as api:
        session = f"/sessions/{api.upload(CT.read_bytes()).json()['id']}"
        api.ask(session, box=[30, 30, 90, 90])
        for name in ("large", "disguised", "deflated"):
            data = (tmp_path / f"{name}.dcm").read_bytes()
            replies = (api.upload(data), api.post(f"{session}/dicom/report", content=data, headers=DICOM))
            assert [(one.status_code, one.json()["error"]) for one in replies] == [(413, "too_large")] * 2


def test_dicom_files_that_cannot_be_made(api: Any, opened: str, scanned: str) -> None:
    api.ask(opened, box=BOX)
    assert api.get(opened).json()["dicom_formats"] == []
    reply = api.post(f"{opened}/dicom/segmentation", content=CT.read_bytes(), headers=DICOM)
    assert (reply.status_code, reply.json()["error"]) == (409, "no_dicom")
    other = Path(str(pydicom.data.get_testdata_file("MR_small.dcm", download=False))).read_bytes()
    for content, text in ((other, "DICOM"), (b"no file", "expected a DICOM file"), (b"", "")):
        reply = api.post(f"{scanned}/dicom/segmentation", content=content, headers=DICOM)
        assert (reply.status_code, reply.json()["error"]) == (422, "image")
        assert text in reply.json()["detail"]
    assert api.post(f"{scanned}/dicom/bmp", content=other, headers=DICOM).status_code == 404
    assert api.post(f"{scanned}/dicom/report", json={}).status_code == 415
    assert api.post(f"{scanned}/dicom/report?object=9", content=other, headers=DICOM).status_code == 404
    # An image is larger than other bodies may be, and may be sent here.
    large = api.post(f"{scanned}/dicom/report", content=bytes(5_000_000), headers=DICOM)
    assert large.status_code == 422
