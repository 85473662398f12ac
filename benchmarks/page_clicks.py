"""From the click to the mask on the screen: the page in a real browser, headless Chromium.

    python benchmarks/page_clicks.py [--objects 60] [--chromium /usr/bin/chromium] [--screenshot docs/page.png]

A service of the default model runs in a process of its own, on an address of this machine alone; service and browser
share the machine. Each object gets a click and then another one that corrects it. The page itself takes the times:
from the event of the mouse until the picture with the mask was handed to the screen. The next click comes as soon as
the mask is there (`at_once`), when the page still wants to know what was measured; or when that is on the screen
(`measured`). The JSON goes to benchmarks/results/; with --screenshot only a picture of the page is made.
"""

import argparse
import io
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import playwright.sync_api
from numpy.typing import NDArray
from PIL import Image

from results import write_result
from serve_load import load_images, start, wait_ready

SEED = 1
SIZE = {"width": 1280, "height": 800}
MOST_OBJECTS = 200
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
MEASURED = """() => document.querySelector('#measures .range')
    || document.getElementById('status').textContent.startsWith('Nothing found')"""
# Of the screenshot: image, places in it, millimetres of a pixel as somebody may type it.
SHOWN = ("immunohistochemistry", ((404, 92), (300, 404)), "0.002")
# A screenshot in a document: few colours look the same and take half the bytes.
COLOURS = 64


class ClickedPage:
    """The page and a hand that clicks."""

    def __init__(self, page: Any, url: str) -> None:
        self.page = page
        page.goto(url)

    def open(self, image: NDArray[Any], folder: Path) -> None:
        """Open an image and wait until it can be clicked."""
        path = folder / "image.png"
        cv2.imwrite(str(path), image[..., 2::-1] if image.ndim == 3 else image)
        self.page.set_input_files("#file", str(path))
        self.page.wait_for_selector("#welcome", state="hidden")
        self.page.wait_for_selector("#busy", state="hidden")

    def click(self, x: float, y: float) -> None:
        """Click a pixel of the image and wait until the mask is drawn."""
        left, top = self.page.evaluate("async ([x, y]) => (await import('/page/main.js')).view.toScreen(x, y)", [x, y])
        box = self.page.locator("#overlay").bounding_box()
        before = len(self.timings())
        self.page.mouse.click(box["x"] + left, box["y"] + top)
        self.page.wait_for_function(
            "(before) => performance.getEntriesByName('click-to-mask').length > before", arg=before
        )

    def look(self) -> None:
        """Wait for what was measured, with its ranges."""
        self.page.wait_for_function(MEASURED)

    def timings(self) -> list[list[float]]:
        """(click to mask, of it the model) of each click, in milliseconds."""
        entries: list[list[float]] = self.page.evaluate(
            "performance.getEntriesByName('click-to-mask').map((one) => [one.duration, one.detail])"
        )
        return entries


@contextmanager
def clicked_page(chromium: str, device: str) -> Iterator[ClickedPage]:
    """The page of a service, in a browser; both end with it."""
    process, url = start(device)
    try:
        wait_ready(url)
        with playwright.sync_api.sync_playwright() as running:
            browser = running.chromium.launch(executable_path=chromium, args=list(FLAGS))
            yield ClickedPage(browser.new_page(viewport=SIZE), url)
            browser.close()
    finally:
        process.terminate()
        process.wait(60)


def click_objects(page: ClickedPage, image: NDArray[Any], objects: int, look: bool) -> list[list[float]]:
    """Two clicks on each of so many objects at random places.

    Returns:
        (click to mask, of it the model) of each click: a first one and a correction in turn.
    """
    rng = np.random.default_rng(SEED)
    height, width = image.shape[:2]
    before = len(page.timings())
    for x, y in rng.uniform(0.05, 0.95, (objects, 2)) * (width, height):
        page.page.keyboard.press("n")
        page.click(x, y)
        if look:
            page.look()
        page.click(*np.clip((x + rng.uniform(-20, 20), y + rng.uniform(-20, 20)), 1, (width - 2, height - 2)))
        if look:
            page.look()
    return page.timings()[before:]


def summary(timings: Sequence[Sequence[float]]) -> dict[str, Any]:
    """Median and 95th percentile of clicks, of what the model took of them, and of the rest."""
    total, model = np.array(timings).T
    parts = {"click_to_mask": total, "model": model, "rest": total - model}
    rows: dict[str, Any] = {"clicks": len(total)}
    for name, values in parts.items():
        p50, p95 = np.percentile(values, [50, 95])
        rows[name] = {"median": round(float(p50), 1), "p95": round(float(p95), 1)}
    return rows


def measure(chromium: str, objects: int, device: str) -> dict[str, Any]:
    """Click on all pictures that are there, in both ways."""
    images = load_images()
    ways: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder, clicked_page(chromium, device) as page:
        version = page.page.context.browser.version
        for way, look in (("at_once", False), ("measured", True)):
            timings = []
            for image in images.values():
                page.open(image, Path(folder))
                timings += click_objects(page, image, max(1, objects // len(images)), look)
            ways[way] = {"first": summary(timings[0::2]), "correction": summary(timings[1::2]), "all": summary(timings)}
    return {"browser": f"Chromium {version}", "images": list(images), "device": device, "ways": ways}


def take_screenshot(chromium: str, path: Path, device: str) -> None:
    """A picture of the page with two objects, one of them measured."""
    name, places, spacing = SHOWN
    with tempfile.TemporaryDirectory() as folder, clicked_page(chromium, device) as page:
        page.open(load_images()[name], Path(folder))
        page.page.fill("#spacing", spacing)
        page.page.keyboard.press("Enter")
        for number, place in enumerate(places):
            if number:
                page.page.click("#new")
            page.click(*place)
            page.look()
        write_few_colours(path, page.page.screenshot())


def write_few_colours(path: Path, png: bytes) -> None:
    """Write a screenshot with as few colours as look the same."""
    temporary = path.with_suffix(".tmp")
    picture = Image.open(io.BytesIO(png)).convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE)
    picture.save(temporary, "PNG", optimize=True)
    temporary.replace(path)


def main() -> None:
    """Measure and keep the numbers, or take a screenshot."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--objects", type=int, default=60, help="of each way, two clicks each")
    parser.add_argument("--chromium", default=shutil.which("chromium"), help="the browser")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--screenshot", type=Path, metavar="PNG", help="only take a picture of the page")
    args = parser.parse_args()
    if not args.chromium or not 0 < args.objects <= MOST_OBJECTS:
        parser.error(f"expected Chromium (--chromium) and 1 to {MOST_OBJECTS} objects")
    if args.screenshot:
        take_screenshot(args.chromium, args.screenshot, args.device)
        return
    numbers = measure(args.chromium, args.objects, args.device)
    print(write_result("page_clicks", numbers))
    print(numbers)


if __name__ == "__main__":
    main()
