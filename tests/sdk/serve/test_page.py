"""The page in a real browser, headless Chromium, driven as a person would."""

import json
import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import highdicom
import nibabel
import numpy as np
import pydicom.data
import pytest
from numpy.typing import NDArray

import samsdk
from samsdk.masks import Region, encode_rle, mask_iou
from samsdk.serve.app import create_app
from samsdk.serve.guard import LOOPBACK_NAMES, Access
from samsdk.serve.limits import Limits

playwright = pytest.importorskip("playwright.sync_api", reason="the page's tests need playwright")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="the page's tests need Chromium: apt-get install chromium")
LIMITS = Limits(requests_per_second=1e6, burst=10**6)
# Machines that run tests are slow at times.
TIMEOUT_MS = 90_000


@pytest.fixture(scope="module")
def student() -> samsdk.Predictor:
    return samsdk.load(device="cpu", cache=False)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as running:
        found = running.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu", "--disable-quic"]
        )
        yield found
        found.close()


class Page:
    """A page and the hands of a person."""

    def __init__(self, page: Any, url: str) -> None:
        self.page = page
        self.problems: list[str] = []
        page.set_default_timeout(TIMEOUT_MS)
        page.on("pageerror", lambda error: self.problems.append(str(error)))
        page.on("console", lambda said: self.problems.append(said.text) if said.type == "error" else None)
        page.goto(url)

    def open(self, path: Path) -> None:
        self.page.set_input_files("#file", str(path))
        self.page.wait_for_selector("#welcome", state="hidden")
        self.page.wait_for_selector("#busy", state="hidden")

    def place(self, x: float, y: float) -> tuple[float, float]:
        """Where a pixel of the image is on the screen."""
        left, top = self.js("async ([x, y]) => (await import('/page/main.js')).view.toScreen(x, y)", [x, y])
        box = self.page.locator("#overlay").bounding_box()
        return box["x"] + left, box["y"] + top

    def js(self, code: str, argument: Any = None) -> Any:
        return self.page.evaluate(code, argument)

    def timings(self) -> list[list[float]]:
        entries: list[list[float]] = self.js(
            "performance.getEntriesByName('click-to-mask').map((one) => [one.duration, one.detail])"
        )
        return entries

    def answered(self, act: Any) -> None:
        """Do something and wait until its mask is drawn."""
        before = len(self.timings())
        act()
        self.page.wait_for_function(
            "(before) => performance.getEntriesByName('click-to-mask').length > before", arg=before
        )

    def click(self, x: float, y: float, **how: Any) -> None:
        self.answered(lambda: self.page.mouse.click(*self.place(x, y), **how))

    def drag_box(self, x0: float, y0: float, x1: float, y1: float) -> None:
        def drag() -> None:
            self.page.mouse.move(*self.place(x0, y0))
            self.page.mouse.down()
            self.page.mouse.move(*self.place(x1, y1), steps=3)
            self.page.mouse.up()

        self.answered(drag)

    def last_step(self, number: int) -> dict[str, Any]:
        """What the page asked for last of an object."""
        step: dict[str, Any] = self.js(
            "async (number) => (await import('/page/main.js')).work.objects.get(number).steps.at(-1)", number
        )
        return step

    def mask(self, number: int, size: tuple[int, int]) -> NDArray[np.bool_]:
        """The mask as the page drew it, out of the alpha of its own canvas."""
        drawn = self.js(
            """async (number) => {
                const { layer } = (await import('/page/main.js')).work.objects.get(number);
                if (!layer?.canvas) return null;
                const { width, height } = layer.canvas;
                const { data } = layer.canvas.getContext('2d').getImageData(0, 0, width, height);
                return { box: layer.box, width, height, inside: data.filter((_, at) => at % 4 === 3).join() };
            }""",
            number,
        )
        mask = np.zeros(size, np.bool_)
        if drawn:
            x0, y0, x1, y1 = drawn["box"]
            inside = np.array(drawn["inside"].split(","), np.uint8).reshape(drawn["height"], drawn["width"])
            mask[y0:y1, x0:x1] = inside > 0
        return mask

    def screen(self, size: tuple[int, int]) -> NDArray[np.uint8]:
        """Grey of the picture as it is put on the screen, before it is zoomed, (H, W)."""
        grey = self.js(
            """async () => {
                const { canvas } = (await import('/page/main.js')).work.picture;
                const { data } = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);
                return data.filter((_, at) => at % 4 === 0).join();
            }"""
        )
        return np.array(grey.split(","), np.uint8).reshape(size)

    def save(self, kind: str, folder: Path) -> Path:
        with self.page.expect_download() as started:
            self.page.click(f"[data-format={kind}]")
        path = folder / started.value.suggested_filename
        started.value.save_as(path)
        return path


@pytest.fixture
def page(browser: Any, serve: Any, student: samsdk.Predictor) -> Iterator[Page]:
    server = serve(create_app({"student": student}, limits=LIMITS))
    context = browser.new_context(viewport={"width": 1280, "height": 800})
    found = Page(context.new_page(), server.url)
    yield found
    assert found.problems == []
    context.close()


@pytest.fixture
def picture(tmp_path: Path, tissue: NDArray[np.uint8]) -> Path:
    path = tmp_path / "tissue.png"
    cv2.imwrite(str(path), tissue[..., ::-1])
    return path


def asked(student: samsdk.Predictor, image: NDArray[Any], step: dict[str, Any], **more: Any) -> samsdk.Result:
    points = {"points": step["points"], "labels": step["labels"]} if step["points"] else {}
    return student.segment(image, **points, box=step["box"], **more)


def test_a_person_clicks_corrects_undoes_boxes_and_saves(
    page: Page, picture: Path, tissue: NDArray[np.uint8], student: samsdk.Predictor, tmp_path: Path
) -> None:
    size = tissue.shape[:2]
    page.open(picture)
    page.click(316.5, 400.5)
    step = page.last_step(1)
    np.testing.assert_allclose(step["points"], [[316.5, 400.5]], atol=0.5)
    first = asked(student, tissue, step)
    drawn = page.mask(1, size)
    assert drawn.any()
    assert mask_iou(drawn, first.mask) >= 0.99

    page.click(250.5, 320.5, button="right")
    corrected = page.last_step(1)
    assert corrected["labels"] == [1, 0]
    second = asked(student, tissue, corrected, mask=first)
    assert mask_iou(page.mask(1, size), second.mask) >= 0.99
    assert second.area != first.area

    page.page.keyboard.press("Control+z")
    page.page.wait_for_function("() => document.getElementById('redo').disabled === false")
    assert mask_iou(page.mask(1, size), first.mask) >= 0.99
    page.page.click("#redo")
    page.page.wait_for_function("() => document.getElementById('redo').disabled === true")
    assert mask_iou(page.mask(1, size), second.mask) >= 0.99

    page.page.click("#new")
    page.page.keyboard.press("r")
    page.drag_box(390, 60, 480, 150)
    boxed = page.last_step(2)
    np.testing.assert_allclose(boxed["box"], [390, 60, 480, 150], atol=1.0)
    third = asked(student, tissue, boxed)
    assert mask_iou(page.mask(2, size), third.mask) >= 0.99
    page.page.wait_for_selector("#more-measures:not([hidden])")
    assert page.page.locator("#objects li").count() == 2

    page.page.fill("#spacing", "0.5")
    page.page.keyboard.press("Enter")
    page.page.wait_for_function("() => document.getElementById('measures').textContent.includes('mm²')")
    text = page.page.locator("#measures .major").inner_text()
    assert float(text.split()[0].replace(",", "")) == pytest.approx(third.area * 0.25, rel=0.01)

    shown = cv2.imread(str(page.save("png", tmp_path)), cv2.IMREAD_UNCHANGED)
    np.testing.assert_array_equal(shown > 0, third.mask)
    page.page.select_option("#scope", "all")
    path = page.save("nifti", tmp_path)
    assert path.name == "tissue-objects.nii.gz"
    volume = nibabel.load(path)
    labels = np.asarray(volume.dataobj)[:, :, 0].T
    np.testing.assert_array_equal(labels == 2, third.mask)
    np.testing.assert_array_equal(labels == 1, second.mask & ~third.mask)
    np.testing.assert_allclose(volume.header.get_zooms()[:2], (0.5, 0.5))
    coco = json.loads(page.save("coco", tmp_path).read_text())
    assert [one["area"] for one in coco["annotations"]] == [second.area, third.area]

    page.open(picture)
    assert page.page.locator("#objects li").count() == 0, "the file was opened afresh"


def test_objects_of_a_dicom_image_are_saved_as_dicom(page: Page, tmp_path: Path) -> None:
    source = Path(str(pydicom.data.get_testdata_file("CT_small.dcm", download=False)))
    page.open(source)
    page.click(64.5, 64.5)
    saved = page.save("segmentation", tmp_path)
    made = highdicom.seg.segread(saved)
    uid = pydicom.dcmread(source).SOPInstanceUID
    mask = made.get_pixels_by_source_instance([uid], segment_numbers=[1])[0, ..., 0].astype(bool)
    np.testing.assert_array_equal(mask, page.mask(1, (128, 128)))
    report = page.save("report", tmp_path)
    assert (saved.name, report.name) == ("CT_small-object-1.dcm", "CT_small-object-1.zip")
    assert sorted(zipfile.ZipFile(report).namelist()) == ["report.dcm", "segmentation.dcm"]


def test_zoomed_and_moved_a_click_is_where_it_is_seen(
    page: Page, tmp_path: Path, cell: NDArray[np.uint8], student: samsdk.Predictor
) -> None:
    deep = cell.astype(np.uint16) * 201 + 5
    cv2.imwrite(str(tmp_path / "cell.png"), deep)
    page.open(tmp_path / "cell.png")
    page.page.mouse.move(*page.place(280, 340))
    page.page.mouse.wheel(0, -600)
    page.page.mouse.move(*page.place(300, 330))
    page.page.mouse.down(button="middle")
    page.page.mouse.move(*page.place(320, 350), steps=3)
    page.page.mouse.up(button="middle")
    scale = page.js("async () => (await import('/page/main.js')).view.scale")
    assert scale > 2
    x, y = page.place(300.5, 330.5)
    page.answered(lambda: page.page.mouse.click(x, y))
    step = page.last_step(1)
    np.testing.assert_allclose(step["points"], [[300.5, 330.5]], atol=0.3)
    assert mask_iou(page.mask(1, deep.shape), asked(student, deep, step).mask) >= 0.99
    # Brightness is the screen's alone: the file's values are read as they are.
    value = page.js("async () => (await import('/page/main.js')).work.picture.value(300.5 / 550, 330.5 / 660)")
    assert int(value) == deep[330, 300]
    page.page.keyboard.press("w")
    before = page.js("async () => (await import('/page/main.js')).work.picture.windowWidth")
    page.page.mouse.move(x, y)
    page.page.mouse.down()
    page.page.mouse.move(x - 60, y, steps=3)
    page.page.mouse.up()
    page.page.wait_for_function(
        "async (before) => (await import('/page/main.js')).work.picture.windowWidth < before", arg=before
    )


def test_fingers_tap_drag_and_pinch(
    browser: Any, serve: Any, student: samsdk.Predictor, picture: Path, tissue: NDArray[np.uint8]
) -> None:
    server = serve(create_app({"student": student}, limits=LIMITS))
    context = browser.new_context(viewport={"width": 768, "height": 600}, has_touch=True)
    page = Page(context.new_page(), server.url)
    page.open(picture)
    session = context.new_cdp_session(page.page)

    def touch(kind: str, *points: tuple[float, float]) -> None:
        fingers = [{"x": x, "y": y, "id": number} for number, (x, y) in enumerate(points)]
        session.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": fingers})

    def view() -> tuple[float, tuple[float, float]]:
        return page.js("async () => (await import('/page/main.js')).view.scale"), page.place(256, 256)

    scale, (x, y) = view()
    touch("touchStart", (x - 40, y), (x + 40, y))
    for apart in (50, 60, 70, 80):
        touch("touchMove", (x - apart, y), (x + apart, y))
    touch("touchEnd")
    pinched, place = view()
    # Twice as far apart, about a place that stays: the image is twice as large, and nothing was clicked.
    assert pinched == pytest.approx(2 * scale, rel=0.02)
    np.testing.assert_allclose(place, (x, y), atol=2)
    assert page.timings() == []
    touch("touchStart", (x, y))
    for moved in (10, 20, 30):
        touch("touchMove", (x + moved, y))
    touch("touchEnd")
    np.testing.assert_allclose(view()[1], (x + 30, y), atol=8)

    def tap() -> None:
        touch("touchStart", page.place(256.5, 256.5))
        touch("touchEnd")

    page.answered(tap)
    step = page.last_step(1)
    np.testing.assert_allclose(step["points"], [[256.5, 256.5]], atol=0.5)
    assert mask_iou(page.mask(1, tissue.shape[:2]), asked(student, tissue, step).mask) >= 0.99
    page.page.tap("#new")
    page.page.tap("[data-tool=box]")

    def box() -> None:
        (x0, y0), (x1, y1) = page.place(200, 200), page.place(300, 290)
        touch("touchStart", (x0, y0))
        touch("touchMove", ((x0 + x1) / 2, (y0 + y1) / 2))
        touch("touchMove", (x1, y1))
        touch("touchEnd")

    page.answered(box)
    np.testing.assert_allclose(page.last_step(2)["box"], [200, 200, 300, 290], atol=2)
    assert page.problems == []
    context.close()


def test_everything_can_be_done_with_keys(page: Page, picture: Path) -> None:
    page.open(picture)
    page.page.locator("#overlay").focus()
    for _ in range(4):
        page.page.keyboard.press("ArrowRight")
    page.page.keyboard.press("Shift+ArrowDown")
    page.answered(lambda: page.page.keyboard.press("Enter"))
    (point,) = page.last_step(1)["points"]
    assert point[0] > 256
    assert point[1] == 257.5
    page.page.keyboard.press("?")
    assert page.page.locator("#help-dialog").is_visible()
    page.page.keyboard.press("Escape")
    page.page.keyboard.press("Delete")
    page.page.wait_for_function("() => document.querySelectorAll('#objects li').length === 0")


def test_every_control_has_a_name_and_the_notice_is_there(page: Page, picture: Path) -> None:
    for width, height in ((1280, 800), (768, 600)):
        page.page.set_viewport_size({"width": width, "height": height})
        nameless = page.js(
            """() => [...document.querySelectorAll('button, input, select, canvas[tabindex]')]
                .filter((one) => one.checkVisibility() || one.type === 'file')
                .filter((one) => !(one.labels?.length || one.getAttribute('aria-label') || one.title || one.innerText))
                .map((one) => one.outerHTML)"""
        )
        assert nameless == []
        notice = page.page.locator("footer .notice")
        assert notice.is_visible()
        assert "Not a medical device" in notice.inner_text()
        wider = page.js("document.documentElement.scrollWidth > innerWidth || document.body.scrollHeight > innerHeight")
        assert not wider, "the page fits its window"


def test_problems_are_told_and_do_no_harm(page: Page, picture: Path, tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(b"no image at all")
    page.page.set_input_files("#file", str(tmp_path / "broken.png"))
    page.page.wait_for_selector("#toast:not([hidden])")
    assert "expected" in page.page.locator("#toast-text").inner_text()
    page.open(picture)
    page.page.mouse.click(*page.place(100, 100), button="right")
    page.page.wait_for_function("() => document.getElementById('toast-text').textContent.includes('first')")
    page.problems.clear()  # the browser itself logs the answer 422


def test_a_closed_session_is_opened_again_with_its_objects(page: Page, picture: Path, serve: Any) -> None:
    page.open(picture)
    page.click(316.5, 400.5)
    before = page.mask(1, (512, 512))
    page.js(
        """async () => {
            const { work } = await import('/page/main.js');
            await (await import('/page/api.js')).close(work.session.id);
        }"""
    )
    page.page.mouse.click(*page.place(300, 420))
    page.page.wait_for_function("() => document.getElementById('toast-text').textContent.includes('open again')")
    np.testing.assert_array_equal(page.mask(1, (512, 512)), before)
    page.click(300.5, 420.5)
    assert len(page.last_step(1)["points"]) == 2
    page.problems.clear()


def test_with_a_token_the_page_asks_or_takes_it_from_the_link(
    browser: Any, serve: Any, student: samsdk.Predictor
) -> None:
    access = Access(LOOPBACK_NAMES, token="secret-of-the-test")
    server = serve(create_app({"student": student}, limits=LIMITS, access=access))
    context = browser.new_context()
    linked = Page(context.new_page(), f"{server.url}/#token=secret-of-the-test")
    linked.page.wait_for_function("() => document.getElementById('model').textContent.includes('student')")
    assert "secret" not in linked.page.url
    typed = Page(browser.new_context().new_page(), server.url)
    typed.page.wait_for_selector("#token-dialog[open]")
    typed.page.fill("#token", "secret-of-the-test")
    typed.page.keyboard.press("Enter")
    typed.page.wait_for_function("() => document.getElementById('model').textContent.includes('student')")
    context.close()


def test_masks_are_decoded_as_coco_codes_them(page: Page) -> None:
    rng = np.random.default_rng(5)
    for height, width in ((1, 1), (7, 5), (64, 33), (300, 200)):
        for share in (0.02, 0.5, 0.97):
            mask = cv2.blur(rng.random((height, width)), (3, 3)) < share if height > 1 else np.ones((1, 1), bool)
            if not mask.any():
                continue
            rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
            box = [int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1]
            for longest, step in ((4096, 1), (max(1, max(box[2] - box[0], box[3] - box[1]) // 3), None)):
                found = page.js(
                    """async ([rle, box, longest]) => {
                        const one = (await import('/page/rle.js')).decodeMask(rle, box, longest);
                        return { data: [...one.data], width: one.width, height: one.height, step: one.step };
                    }""",
                    [encode_rle(Region((mask.shape[0], mask.shape[1]), 0, 0, mask)), box, longest],
                )
                data = np.array(found["data"], bool).reshape(found["height"], found["width"])
                part = mask[box[1] : box[3], box[0] : box[2]]
                assert step in (None, found["step"])
                np.testing.assert_array_equal(data, part[:: found["step"], :: found["step"]])


def test_the_time_of_a_click_is_shown(page: Page, picture: Path) -> None:
    page.open(picture)
    page.click(316.5, 400.5)
    ((total, model),) = page.timings()
    assert total >= model, "the page takes longer than the model within it"
    assert page.page.locator("#latency").inner_text().startswith(f"{round(total)} ms")


def test_a_wider_window_shows_what_the_first_one_clips(page: Page, tmp_path: Path) -> None:
    source = Path(str(pydicom.data.get_testdata_file("CT_small.dcm", download=False)))
    dataset = pydicom.dcmread(source)
    meant = dataset.pixel_array * float(dataset.RescaleSlope) + float(dataset.RescaleIntercept)
    # The file names no window; this one clips air and bone.
    dataset.WindowCenter, dataset.WindowWidth = 40, 200
    saved = tmp_path / "clipped.dcm"
    dataset.save_as(saved)
    page.open(saved)
    bone = meant > 500
    assert bone.sum() > 50

    def shown() -> NDArray[np.uint8]:
        return page.screen((128, 128))

    first = shown()
    np.testing.assert_allclose(first, samsdk.read_scan(saved).pixels, atol=1)
    assert set(first[bone]) == {255}
    page.click(64.5, 64.5)
    asked_first = page.mask(1, (128, 128))
    level_before = page.page.locator("#level").get_attribute("aria-valuetext")
    page.page.fill("#width", "3000")
    page.page.fill("#level", "500")
    page.page.wait_for_function(
        "(before) => document.getElementById('level').getAttribute('aria-valuetext') !== before", arg=level_before
    )
    width, level = page.js(
        "async () => { const { picture } = (await import('/page/main.js')).work; "
        "return [picture.windowWidth, picture.windowLevel]; }"
    )
    wide = shown()
    assert len(np.unique(wide[bone])) > 20, "what was all white has a structure"
    np.testing.assert_allclose(wide, np.clip(255 * ((meant - level) / width + 0.5), 0, 255), atol=1)
    # The screen alone changed: the model answers as before.
    page.page.click("#new")
    page.click(64.5, 64.5)
    np.testing.assert_array_equal(page.mask(2, (128, 128)), asked_first)
    page.page.click("#reset-window")
    np.testing.assert_array_equal(shown(), first)


def test_every_frame_can_be_had(page: Page, tmp_path: Path) -> None:
    levels = (40, 90, 140)
    done = cv2.imwritemulti(str(tmp_path / "stack.tif"), [np.full((30, 40), level, np.uint8) for level in levels])
    assert done
    page.open(tmp_path / "stack.tif")
    assert "frame 1 of 3" in page.page.locator("#status").inner_text()
    assert page.page.locator("#frames").inner_text() == "of 3"
    assert page.page.locator("#frame-before").is_disabled()
    seen = [int(page.screen((30, 40))[0, 0])]

    def see(frame: str) -> None:
        page.page.wait_for_function(
            "(text) => document.getElementById('status').textContent.includes(text)", arg=f"frame {frame}"
        )
        seen.append(int(page.screen((30, 40))[0, 0]))

    page.page.click("#frame-after")
    see("2 of 3")
    page.page.fill("#frame", "3")
    page.page.keyboard.press("Enter")
    see("3 of 3")
    assert tuple(seen) == levels
    assert page.page.locator("#frame-after").is_disabled()
    page.open(Path(str(pydicom.data.get_testdata_file("SC_rgb_rle_2frame.dcm", download=False))))
    assert page.page.locator("#frames").inner_text() == "of 2"
    page.page.locator("#overlay").focus()
    page.page.keyboard.press(".")
    page.page.wait_for_function("() => document.getElementById('status').textContent.includes('frame 2 of 2')")
    page.open(Path(str(pydicom.data.get_testdata_file("CT_small.dcm", download=False))))
    assert page.page.locator("#frame-section").is_hidden()


def test_an_unstable_mask_shows_itself(
    page: Page, picture: Path, tissue: NDArray[np.uint8], student: samsdk.Predictor
) -> None:
    page.open(picture)
    page.click(316.5, 400.5)
    page.page.wait_for_selector("#measures .range")
    (point,) = page.last_step(1)["points"]
    found = student.segment(tissue, points=[point], variations=8).measure().stability
    assert found is not None
    ends = page.page.locator("#measures dd.major .range").inner_text().replace(",", "").split(" to ")
    assert [float(end) for end in ends] == pytest.approx(found.ranges["area_px2"], rel=0.01, abs=1)
    assert f"{round(100 * found.agreement)}\u00a0%" in page.page.locator("#stability").inner_text()
    assert ("Unstable" in page.page.locator("#stability").inner_text()) == (found.agreement < 0.8)
    page.page.fill("#spacing", "0.5")
    page.page.keyboard.press("Enter")
    page.page.wait_for_function(
        "() => document.querySelector('#measures .range')?.closest('dd').textContent.includes('mm²')"
    )
    ends = page.page.locator("#measures dd.major .range").inner_text().replace(",", "").split(" to ")
    assert [float(end) for end in ends] == pytest.approx([end / 4 for end in found.ranges["area_px2"]], rel=0.01)
