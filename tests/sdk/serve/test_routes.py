import base64
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pydicom.data
import pytest
from numpy.typing import NDArray

import samsdk
import samsdk.io.scans
from samsdk.serve.app import create_app

BOX = [120, 100, 300, 260]
POINT = [200.5, 180.25]


@pytest.mark.parametrize("zoom", [None, True])
@pytest.mark.parametrize("how", [{"points": [POINT]}, {"box": BOX}, {"points": [POINT, [40, 40]], "labels": [1, 0]}])
def test_a_prompt_gives_the_mask_that_the_predictor_gives(
    api: Any, opened: str, predictor: samsdk.Predictor, tissue: NDArray[np.uint8], how: Any, zoom: bool | None
) -> None:
    reply = api.ask(opened, **how, zoom=zoom, include=["rle", "png", "polygons"])
    expected = predictor.segment(tissue, **how, zoom=zoom)
    assert reply["rle"] == expected.rle()
    np.testing.assert_array_equal(api.mask_of(reply), expected.mask)
    shown = cv2.imdecode(np.frombuffer(base64.b64decode(reply["png"]), np.uint8), cv2.IMREAD_UNCHANGED)
    np.testing.assert_array_equal(shown, expected.mask * np.uint8(255))
    assert reply["polygons"] == [outline.tolist() for outline in expected.polygons()]
    assert (reply["area"], tuple(reply["box"])) == (expected.area, expected.box)
    assert reply["score"] == pytest.approx(expected.score, abs=1e-6)
    assert reply["confidence"] == pytest.approx(expected.confidence, abs=1e-6)
    assert tuple(reply["window"]) == expected.frame.window


def test_an_answer_is_corrected_by_its_number(
    api: Any, opened: str, predictor: samsdk.Predictor, tissue: NDArray[np.uint8]
) -> None:
    first = api.ask(opened, points=[POINT], zoom=True)
    more = {"points": [POINT, [150, 240]], "labels": [1, 0]}
    second = api.ask(opened, **more, mask=first["answer"], zoom=True)
    expected = predictor.segment(tissue, **more, mask=predictor.segment(tissue, points=[POINT], zoom=True), zoom=True)
    assert second["rle"] == expected.rle()
    assert second["rle"] != api.ask(opened, **more, zoom=True)["rle"]
    assert (first["object"], second["object"]) == (1, 1)
    unknown = api.post(f"{opened}/prompts", json={"points": [POINT], "mask": 99})
    assert (unknown.status_code, unknown.json()["error"]) == (404, "not_found")


@pytest.mark.parametrize("zoom", [None, True])
def test_a_batch_gives_what_single_prompts_give_each_a_new_object(api: Any, opened: str, zoom: bool | None) -> None:
    prompts = [{"box": BOX}, {"points": [POINT]}, {"points": [[60, 45]]}, {"box": [300, 300, 400, 420]}]
    single = [api.ask(opened, **prompt, object=7, zoom=zoom)["rle"] for prompt in prompts]
    reply = api.post(f"{opened}/batches", json={"prompts": prompts, "zoom": zoom})
    assert [one["rle"] for one in reply.json()["answers"]] == single
    assert [one["object"] for one in reply.json()["answers"]] == [8, 9, 10, 11]


def test_a_batch_is_answered_as_a_whole_or_not_at_all(api: Any, opened: str) -> None:
    for zoom in (False, True):
        body = {"prompts": [{"points": [POINT]}, {"points": [[5000, 1]]}], "zoom": zoom}
        reply = api.post(f"{opened}/batches", json=body)
        assert (reply.status_code, reply.json()["error"]) == (422, "prompt")
    assert api.get(opened).json()["objects"] == []


def test_multimask_gives_all_scores(api: Any, opened: str, predictor: samsdk.Predictor) -> None:
    assert len(api.ask(opened, points=[POINT], multimask=True)["scores"]) == predictor.manifest.multimask_outputs


def test_undo_and_redo_go_through_the_answers_of_an_object(api: Any, opened: str) -> None:
    first = api.ask(opened, points=[POINT])
    second = api.ask(opened, points=[POINT], box=BOX, object=1)
    undone = api.post(f"{opened}/objects/1/undo").json()
    assert (undone["answer"]["answer"], undone["undo"], undone["redo"]) == (first["answer"], 1, 1)
    assert undone["answer"]["rle"] == first["rle"] != second["rle"]
    assert api.post(f"{opened}/objects/1/undo").json()["answer"] is None
    nothing = api.post(f"{opened}/objects/1/undo")
    assert (nothing.status_code, nothing.json()["error"]) == (409, "nothing_to_undo")
    api.post(f"{opened}/objects/1/redo")
    redone = api.post(f"{opened}/objects/1/redo").json()
    assert (redone["answer"]["rle"], redone["redo"]) == (second["rle"], 0)
    assert api.post(f"{opened}/objects/1/redo").json()["error"] == "nothing_to_redo"
    api.post(f"{opened}/objects/1/undo")
    api.ask(opened, box=BOX, object=1)
    assert api.get(f"{opened}/objects/1").json()["redo"] == 0, "a new answer takes the place of what was undone"


def test_objects_have_names_and_go_away(api: Any, opened: str) -> None:
    api.ask(opened, points=[POINT])
    api.ask(opened, box=BOX)
    assert api.patch(f"{opened}/objects/2", json={"name": "left gland"}).json()["name"] == "left gland"
    assert [one["name"] for one in api.get(opened).json()["objects"]] == ["Object 1", "left gland"]
    assert api.delete(f"{opened}/objects/1").status_code == 204
    assert [one["number"] for one in api.get(opened).json()["objects"]] == [2]
    assert api.get(f"{opened}/objects/1").status_code == 404
    assert api.ask(opened, box=BOX)["object"] == 3, "numbers are not given twice"


def test_measures_are_in_mm_once_the_size_of_a_pixel_is_known(api: Any, opened: str) -> None:
    answer = api.ask(opened, box=BOX)
    assert {one["unit"] for one in answer["measures"]} == {"px", "px²"}
    assert api.patch(opened, json={"spacing": [0.5, 0.25]}).json()["spacing"] == [0.5, 0.25]
    measures = api.get(f"{opened}/objects/1").json()["answer"]["measures"]
    areas = {one["unit"]: one["value"] for one in measures if one["name"] == "area"}
    assert areas == {"px²": answer["area"], "mm²": pytest.approx(answer["area"] * 0.125)}
    assert {one["unit"] for one in api.ask(opened, box=BOX)["measures"]} == {"px", "px²", "mm", "mm²"}
    assert api.patch(opened, json={"spacing": None}).json()["spacing"] is None


@pytest.mark.parametrize(
    ("image", "bits", "low", "high"),
    [
        (np.arange(60, dtype=np.uint8).reshape(6, 10), 8, 0, 255),
        (np.arange(60, dtype=np.uint16).reshape(6, 10) * 1000 + 7, 16, 7, 59007),
        (np.arange(180, dtype=np.uint8).reshape(6, 10, 3), 8, 0, 255),
    ],
)
def test_the_screen_gets_the_values_of_the_file(
    api: Any, image: NDArray[Any], bits: int, low: float, high: float
) -> None:
    reply = api.upload(image).json()
    shown = reply["shown"]
    assert (shown["bits"], shown["low"], shown["high"]) == (bits, low, high)
    assert (shown["size"], shown["channels"]) == ([6, 10], 3 if image.ndim == 3 else 1)
    levels = np.frombuffer(api.get(f"/sessions/{reply['id']}/image").content, "<u2" if bits == 16 else "u1")
    np.testing.assert_allclose(shown["start"] + shown["step"] * levels.reshape(image.shape), image)


def test_a_huge_image_is_shown_smaller(api: Any) -> None:
    image = np.zeros((40, 8192), np.uint8)
    image[:, 4096:] = 200
    reply = api.upload(image).json()
    assert (reply["size"], reply["shown"]["size"]) == ([40, 8192], [20, 4096])
    levels = np.frombuffer(api.get(f"/sessions/{reply['id']}/image").content, np.uint8).reshape(20, 4096)
    assert (levels[:, :2048] == 0).all()
    assert (levels[:, 2048:] == 200).all()


def test_a_model_is_chosen_by_its_name(
    calling: Any, predictor: samsdk.Predictor, auto_bundle: Path, semantic_bundle: Path, cell: NDArray[np.uint8]
) -> None:
    auto = samsdk.load(auto_bundle, device="cpu")
    with calling({"tiny": predictor, "nuclei": auto}) as api:
        assert [one["name"] for one in api.get("/models").json()["models"]] == ["tiny", "nuclei"]
        reply = api.upload(cell, "?model=nuclei").json()
        # It needs no prompt.
        answer = api.post(f"/sessions/{reply['id']}/prompts", json={}).json()
        assert answer["rle"] == auto.segment(cell).rle()
        assert api.upload(cell, "?model=other").status_code == 404
        plain = api.upload(cell).json()
        assert api.post(f"/sessions/{plain['id']}/prompts", json={}).json()["error"] == "prompt"
    with pytest.raises(samsdk.BundleError, match="for the task 'semantic'"):
        create_app({"organs": samsdk.load(semantic_bundle, device="cpu")})


def test_sessions_are_told_apart_and_deleted(api: Any, opened: str, cell: NDArray[np.uint8]) -> None:
    other = api.upload(cell).json()["id"]
    assert api.get(f"/sessions/{other}").json()["size"] == list(cell.shape)
    assert api.get(opened).json()["size"] == [512, 512]
    assert api.delete(opened).status_code == 204
    gone = api.get(opened)
    assert (gone.status_code, gone.json()["error"]) == (410, "gone")
    assert api.get("/sessions/never").status_code == 404
    assert api.get(f"/sessions/{other}").status_code == 200


def test_files_that_are_no_images_are_refused_and_leave_nothing(api: Any) -> None:
    for content in (b"", b"plain text", b"\x89PNG\r\n\x1a\n" + bytes(40), bytes(128) + b"DICM" + bytes(20)):
        reply = api.upload(content)
        assert (reply.status_code, reply.json()["error"]) == (422, "image"), content
    form = api.post("/sessions", files={"file": ("a.png", b"x")})
    assert (form.status_code, form.json()["error"]) == (415, "media_type")
    assert "samsdk_sessions 0.0" in api.get("/metrics").text


def test_spacing_and_window_of_an_upload(api: Any, tissue: NDArray[np.uint8]) -> None:
    reply = api.upload(tissue, "?spacing=0.3,0.25")
    assert reply.json()["spacing"] == [0.3, 0.25]
    assert api.upload(tissue, "?spacing=0.3").json()["spacing"] == [0.3, 0.3]
    for wrong in ("0", "-1", "nan", "inf", "a", "", "1,2,3"):
        reply = api.upload(tissue, f"?spacing={wrong}")
        assert (reply.status_code, reply.json()["error"]) == (422, "spacing"), wrong
    assert api.upload(tissue, "?window=4").json()["error"] == "window"
    # A window is of DICOM's numbers.
    assert api.upload(tissue, "?window=40,400").json()["error"] == "image"


def test_openapi_and_metrics_speak_of_routes_not_of_sessions(api: Any, opened: str) -> None:
    api.ask(opened, points=[POINT])
    text = api.get("/metrics").text
    assert 'samsdk_requests_total{method="POST",route="/sessions/{session}/prompts",status="200"} 1.0' in text
    assert 'samsdk_stage_seconds_count{stage="decode"} 1.0' in text
    assert opened.rpartition("/")[2] not in text
    paths = json.loads(api.get("/openapi.json").text)["paths"]
    assert {"/sessions", "/sessions/{session}/prompts", "/sessions/{session}/batches", "/models"} <= set(paths)


def test_dicom_comes_with_the_size_of_its_pixels(api: Any, predictor: samsdk.Predictor) -> None:
    path = Path(str(pydicom.data.get_testdata_file("CT_small.dcm", download=False)))
    scan = samsdk.io.scans.read_scan(path)
    reply = api.upload(path.read_bytes()).json()
    assert scan.spacing is not None
    assert reply["spacing"] == pytest.approx(list(scan.spacing))
    answer = api.ask(f"/sessions/{reply['id']}", box=[30, 30, 90, 90])
    assert answer["rle"] == predictor.segment(scan, box=[30, 30, 90, 90]).rle()
    areas = {one["unit"]: one["value"] for one in answer["measures"] if one["name"] == "area"}
    assert areas["mm²"] == pytest.approx(answer["area"] * scan.spacing[0] * scan.spacing[1])


def test_of_several_frames_one_has_to_be_named(api: Any) -> None:
    path = Path(str(pydicom.data.get_testdata_file("SC_rgb_rle_2frame.dcm", download=False)))
    data = path.read_bytes()
    reply = api.upload(data)
    assert (reply.status_code, reply.json()["error"]) == (422, "frame")
    seen = []
    for frame in (0, 1):
        session = api.upload(data, f"?frame={frame}").json()
        seen.append(api.get(f"/sessions/{session['id']}/image").content)
        height, width = session["size"]
        np.testing.assert_array_equal(
            np.frombuffer(seen[-1], np.uint8).reshape(height, width, 3),
            samsdk.io.scans.read_scan(path, frame=frame).pixels,
        )
    assert seen[0] != seen[1]
    assert (session["frames"], session["frame"]) == (2, 1)
    assert api.upload(data, "?frame=2").json()["error"] == "image"


def test_pages_of_a_stack_are_counted(api: Any) -> None:
    pages = [np.full((6, 8), 40 * number, np.uint8) for number in range(1, 4)]
    done, stack = cv2.imencodemulti(".tif", pages)
    assert done
    first, last = api.upload(stack.tobytes()).json(), api.upload(stack.tobytes(), "?frame=2").json()
    assert (first["frames"], first["frame"], last["frames"], last["frame"]) == (3, 0, 3, 2)
    assert api.get(f"/sessions/{last['id']}").json()["frame"] == 2
    assert set(api.get(f"/sessions/{last['id']}/image").content) == {120}
    assert api.upload(pages[0]).json()["frames"] == 1


def values_shown(api: Any, reply: dict[str, Any]) -> NDArray[np.float64]:
    """What a screen makes of the levels that it gets."""
    shown = reply["shown"]
    content = api.get(f"/sessions/{reply['id']}/image").content
    levels = np.frombuffer(content, "<u2" if shown["bits"] == 16 else "u1").reshape(shown["size"])
    return np.asarray(shown["start"] + shown["step"] * levels.astype(np.float64))


def test_the_screen_gets_what_the_window_of_a_dicom_file_cuts_off(api: Any, predictor: samsdk.Predictor) -> None:
    path = Path(str(pydicom.data.get_testdata_file("CT_small.dcm", download=False)))
    dataset = pydicom.dcmread(path)
    meant = dataset.pixel_array * float(dataset.RescaleSlope) + float(dataset.RescaleIntercept)
    prompt = {"box": [30, 30, 90, 90], "include": ["rle"]}
    for query, window in (("", None), ("?window=40,80", (40.0, 80.0))):
        reply = api.upload(path.read_bytes(), query).json()
        np.testing.assert_array_equal(values_shown(api, reply), meant)
        shown = reply["shown"]
        assert (shown["least"], shown["greatest"]) == (meant.min(), meant.max())
        scan = samsdk.io.scans.read_scan(path, window=window)
        # At first the screen shows what the model sees, and the model sees the window whatever the screen has.
        first = np.clip((meant - shown["low"]) / (shown["high"] - shown["low"]), 0, 1) * 255
        np.testing.assert_allclose(first, scan.pixels, atol=0.5 + 1e-6)
        assert api.ask(f"/sessions/{reply['id']}", **prompt)["rle"] == predictor.segment(scan, box=prompt["box"]).rle()
    assert (shown["low"], shown["high"]) == (0, 79)
    assert (scan.pixels[meant > 79] == 255).all(), "the second window clips"
    assert len(np.unique(meant[meant > 79])) > 100


@pytest.mark.parametrize("name", ["MR_small.dcm", "JPEG2000.dcm", "SC_rgb_rle.dcm", "examples_palette.dcm"])
def test_the_screen_shows_other_dicom_files_as_the_model_sees_them(api: Any, name: str) -> None:
    path = Path(str(pydicom.data.get_testdata_file(name, download=False)))
    pixels = samsdk.io.scans.read_scan(path).pixels
    reply = api.upload(path.read_bytes()).json()
    shown = reply["shown"]
    if pixels.ndim == 3:
        assert api.get(f"/sessions/{reply['id']}/image").content == pixels.tobytes()
        return
    first = np.clip((values_shown(api, reply) - shown["low"]) / (shown["high"] - shown["low"]), 0, 1) * 255
    np.testing.assert_allclose(first, pixels, atol=0.51)


def test_what_is_white_at_zero_is_shown_so(api: Any, tmp_path: Path) -> None:
    dataset = pydicom.dcmread(str(pydicom.data.get_testdata_file("CT_small.dcm", download=False)))
    dataset.PhotometricInterpretation = "MONOCHROME1"
    dataset.save_as(tmp_path / "inverted.dcm")
    reply = api.upload((tmp_path / "inverted.dcm").read_bytes()).json()
    assert reply["shown"]["low"] > reply["shown"]["high"]
    pixels = samsdk.io.scans.read_scan(tmp_path / "inverted.dcm").pixels
    low, high = reply["shown"]["low"], reply["shown"]["high"]
    np.testing.assert_allclose(np.clip((values_shown(api, reply) - low) / (high - low), 0, 1) * 255, pixels, atol=0.51)


@pytest.mark.parametrize("zoom", [None, True, False])
def test_moved_prompts_give_each_measure_a_range(
    api: Any, opened: str, predictor: samsdk.Predictor, tissue: NDArray[np.uint8], zoom: bool | None
) -> None:
    first = api.ask(opened, points=[POINT], zoom=zoom)
    how = {"points": [POINT, [150, 240]], "labels": [1, 0], "zoom": zoom}
    answer = api.ask(opened, **how, mask=first["answer"], variations=6)
    before = predictor.segment(tissue, points=[POINT], zoom=zoom)
    expected = predictor.segment(tissue, **how, mask=before, variations=6).measure()
    assert expected.stability is not None
    assert answer["stability"] == {"agreement": pytest.approx(expected.stability.agreement), "variations": 6}
    ranges = {f"{one['name'].replace(' ', '_')}_{one['unit'].replace('²', '2')}": one for one in answer["measures"]}
    assert {name: one["range"] for name, one in ranges.items()} == {
        name: pytest.approx(list(ends)) for name, ends in expected.stability.ranges.items()
    }
    # The same afterwards, of the object; and without being asked for there is none.
    api.patch(opened, json={"spacing": [0.5, 0.25]})
    later = api.get(f"{opened}/objects/1?variations=6").json()["answer"]
    assert later["stability"] == answer["stability"]
    area = {one["unit"]: one["range"] for one in later["measures"] if one["name"] == "area"}
    assert area["mm²"] == pytest.approx([end * 0.125 for end in area["px²"]])
    plain = api.get(f"{opened}/objects/1").json()["answer"]
    assert "stability" not in plain
    assert not any("range" in one for one in plain["measures"])
    assert api.get(f"{opened}/objects/1?variations=33").status_code == 422
    assert "stability" not in api.ask(opened, **how, variations=6, include=["rle"])


def test_prompts_in_millimetres(api: Any, predictor: samsdk.Predictor, tissue: NDArray[np.uint8], opened: str) -> None:
    scan = samsdk.Scan(tissue, spacing=(0.5, 0.25))
    prompts = ({"points_mm": [[100.2, 45.1], [20, 10]], "labels": [1, 0]}, {"box_mm": [60, 25, 150, 65]})
    session = f"/sessions/{api.upload(tissue, '?spacing=0.5,0.25').json()['id']}"
    for prompt in prompts:
        unknown = api.post(f"{opened}/prompts", json=prompt)
        assert (unknown.status_code, unknown.json()["error"]) == (422, "spacing")
        assert "PATCH" in unknown.json()["detail"]
        assert api.ask(session, **prompt)["rle"] == predictor.segment(scan, **prompt).rle()
    assert api.ask(session, **prompts[1])["rle"] == api.ask(session, box=[120, 100, 300, 260])["rle"]
    both = api.post(f"{session}/prompts", json={"points": [POINT], **prompts[0]})
    assert (both.status_code, both.json()["error"]) == (422, "prompt")
    batch = api.post(f"{opened}/batches", json={"prompts": list(prompts)})
    assert (batch.status_code, batch.json()["error"]) == (422, "spacing")
    # Once it is known, the same prompt is answered.
    api.patch(opened, json={"spacing": [0.5, 0.25]})
    assert api.ask(opened, **prompts[0])["rle"] == predictor.segment(scan, **prompts[0]).rle()
    assert api.post(f"{session}/prompts", json={"points_mm": [[1, 1]] * 101}).status_code == 413
