"""Regions: where the first look at an image is, small and large."""

import tracemalloc
from dataclasses import dataclass, field

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

import samsdk
from samsdk.embedding import Embedding
from samsdk.masks import Region
from samsdk.prompts import Prompt
from samsdk.regions import LARGE, FirstLook, prompt_extent
from samsdk.results import Result
from samsdk.transforms import Preprocessing, Window

INPUT = 16
SIDE = 1000


@dataclass
class Bright:
    """Finds all that is bright in a window, and remembers the windows."""

    image: NDArray[np.uint8]
    windows: list[Window | None] = field(default_factory=list)

    def encode(self, window: Window | None) -> Embedding:
        self.windows.append(window)
        frame = Preprocessing(INPUT).frame(self.image.shape, window)
        return Embedding({"image_embeddings": np.zeros((1, 1, 1, 1), np.float32)}, frame, "b", "p")

    def decode(self, embedding: Embedding, prompt: Prompt) -> Result:
        x0, y0, x1, y1 = embedding.frame.window
        region = Region(self.image.shape, y0, x0, self.image[y0:y1, x0:x1] > 100)
        logits = np.zeros((1, 4, 4), np.float32)
        return Result((region,), np.ones(1, np.float32), logits, embedding.frame, {}, {}, "p", "b")

    def look(self, prompt: Prompt) -> Result:
        return FirstLook(self.encode, self.decode, self.image.shape, INPUT)(prompt)


def disc(radius: int, side: int = SIDE, centre: tuple[int, int] = (500, 400)) -> Bright:
    image = np.zeros((side, side), np.uint8)
    cv2.circle(image, centre, radius, 200, -1)
    return Bright(image)


def test_a_small_object_is_looked_at_in_its_region_alone() -> None:
    seen = disc(5)
    result = seen.look(Prompt(points=[(500, 400)]))
    (window,) = seen.windows
    assert window is not None
    assert (window[2] - window[0], window[3] - window[1]) == (2 * INPUT, 2 * INPUT)
    assert result.box == (495, 395, 506, 406)


def test_the_region_grows_until_the_object_ends_in_it() -> None:
    seen = disc(50)
    result = seen.look(Prompt(points=[(500, 400)]))
    assert [w and w[2] - w[0] for w in seen.windows] == [32, 64, 128]
    assert result.box == (450, 350, 551, 451)


def test_an_object_of_nearly_the_whole_image_is_found_in_the_whole() -> None:
    seen = disc(480, centre=(500, 500))
    assert seen.look(Prompt(points=[(500, 500)])).frame.window == (0, 0, SIDE, SIDE)
    assert seen.windows[-1] is None


def test_the_border_of_the_image_is_no_reason_to_grow() -> None:
    seen = disc(5, centre=(2, 2))
    seen.look(Prompt(points=[(2, 2)]))
    assert seen.windows == [(0, 0, 32, 32)]


def test_what_is_not_under_the_point_is_no_reason_to_grow() -> None:
    seen = disc(5)
    seen.image[400 - 16 : 400 + 16, 514:520] = 200  # runs over the border of the first region
    seen.look(Prompt(points=[(500, 400)]))
    assert len(seen.windows) == 1


def test_images_of_usual_size_are_looked_at_as_a_whole() -> None:
    for side, whole in ((LARGE * INPUT, True), (LARGE * INPUT + 1, False)):
        seen = disc(5, side, (100, 100))
        seen.look(Prompt(points=[(100, 100)]))
        assert (seen.windows == [None]) == whole


@pytest.mark.parametrize(
    ("prompt", "extent"),
    [
        (Prompt(points=[(3, 4), (10, 9)]), (3, 4, 11, 10)),
        (Prompt(points=[(3, 4), (10, 9)], labels=[1, 0]), (3, 4, 4, 5)),
        (Prompt(points=[(3, 4)], labels=[0]), (3, 4, 4, 5)),
        (Prompt(box=(5, 6, 20, 30)), (5, 6, 20, 30)),
        (Prompt(points=(2, 8), box=(5, 6, 20, 30)), (2, 6, 20, 30)),
        (Prompt(mask=np.pad(np.ones((2, 3), np.uint8), ((4, 34), (7, 30)))), (7, 4, 10, 6)),
        (Prompt(points=(2, 8), mask=np.zeros((40, 40), bool)), (2, 8, 3, 9)),
        (Prompt(points=(2, 8), mask=np.zeros((4, 4), np.float32)), None),
        (Prompt(mask=np.zeros((40, 40), bool)), None),
    ],
)
def test_what_a_prompt_spans(prompt: Prompt, extent: tuple[float, ...] | None) -> None:
    assert prompt_extent(prompt, (40, 40)) == extent


def test_a_cell_in_a_field_of_8000_pixels() -> None:
    rng = np.random.default_rng(0)
    field_of_view = rng.integers(30, 50, (8000, 8000), dtype=np.uint8)
    truth = np.zeros((8000, 8000), np.uint8)
    cv2.ellipse(truth, (5123, 2345), (30, 24), 30, 0, 360, 1, -1)
    field_of_view[truth > 0] += 110
    predictor = samsdk.load(device="cpu")
    mask = predictor.segment(field_of_view, points=[(5123, 2345)]).mask
    assert mask.shape == (8000, 8000)
    both = np.count_nonzero(mask & (truth > 0))
    assert 2 * both / (np.count_nonzero(mask) + np.count_nonzero(truth)) > 0.95
    # Seen as a whole, at 256 pixels, the cell is 2 pixels wide.
    whole = predictor.segment(field_of_view, points=[(5123, 2345)], zoom=False).mask
    assert np.count_nonzero(whole & (truth > 0)) / (np.count_nonzero(whole | (truth > 0))) < 0.5


def test_a_click_on_the_largest_image_is_right_and_takes_no_copy_of_it() -> None:
    side, (x, y), radius = 20_000, (13_211, 17_003), 45
    # Of zeros nothing is in memory until it is written.
    image = np.zeros((side, side), np.uint8)
    cv2.circle(image, (x, y), radius, 200, -1)
    predictor = samsdk.load(device="cpu", threads=1)
    tracemalloc.start()
    result = predictor.segment(image, points=[(x, y)])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 50e6  # the image has 400e6 bytes
    assert result.frame.original_size == (side, side)
    box = result.box
    assert box is not None
    assert np.abs(np.array(box) - (x - radius, y - radius, x + radius + 1, y + radius + 1)).max() <= 6
    true = image[box[1] : box[3], box[0] : box[2]] > 0
    shown = result.region.inside[box[1] - result.region.top :, box[0] - result.region.left :][: len(true)]
    shared = np.count_nonzero(shown[:, : true.shape[1]] & true)
    assert shared / (np.count_nonzero(image[y - 50 : y + 50, x - 50 : x + 50]) + result.area - shared) > 0.9
