"""Windows by hand, and the order of looks with an encoder and a decoder that follow a script."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from samsdk import Prompt, PromptError
from samsdk.masks import Region
from samsdk.results import Result
from samsdk.transforms import Preprocessing, Window
from samsdk.zoom import Zoom, segment_zoomed, zoom_window

SIZE = (300, 400)
WHOLE = (0, 0, 400, 300)
PREPROCESSING = Preprocessing(64)


@pytest.mark.parametrize(
    ("extent", "size", "zoom", "window"),
    [
        pytest.param((100, 100, 140, 120), SIZE, Zoom(), (80, 70, 160, 150), id="inside"),
        pytest.param((100, 100, 120, 140), SIZE, Zoom(), (70, 80, 150, 160), id="upright"),
        pytest.param((100, 100, 140, 120), SIZE, Zoom(3.0), (60, 50, 180, 170), id="more context"),
        pytest.param((0, 5, 40, 45), SIZE, Zoom(), (0, 0, 80, 80), id="top left"),
        pytest.param((370, 260, 400, 300), SIZE, Zoom(), (320, 220, 400, 300), id="bottom right"),
        pytest.param((100, 100, 102, 101), SIZE, Zoom(), (77, 76, 125, 124), id="smallest"),
        pytest.param((100, 100, 102, 101), SIZE, Zoom(smallest=10), (96, 96, 106, 106), id="another smallest"),
        pytest.param((10, 100, 20, 160), (400, 50), Zoom(), (0, 70, 50, 190), id="narrower than the window"),
        pytest.param((100, 10, 160, 20), (30, 400), Zoom(), (70, 0, 190, 30), id="lower than the window"),
        pytest.param((100, 100, 199, 120), SIZE, Zoom(), (50, 11, 248, 209), id="just worthwhile"),
        pytest.param((100, 100, 200, 120), SIZE, Zoom(), None, id="not worthwhile"),
        pytest.param((5, 5, 6, 6), (60, 60), Zoom(), None, id="small image"),
    ],
)
def test_windows_by_hand(extent: Any, size: tuple[int, int], zoom: Zoom, window: Window | None) -> None:
    assert zoom_window(extent, size, zoom) == window


SHARE = st.floats(0, 1)


@given(st.integers(1, 600), st.integers(1, 600), SHARE, SHARE, SHARE, SHARE, st.floats(1, 3), st.integers(1, 60))
def test_a_window_shows_all_of_the_object_and_lies_in_the_image(
    height: int, width: int, a: float, b: float, c: float, d: float, context: float, smallest: int
) -> None:
    x0, x1 = sorted((a * width, b * width))
    y0, y1 = sorted((c * height, d * height))
    window = zoom_window((x0, y0, x1, y1), (height, width), Zoom(context, smallest))
    if window is not None:
        left, top, right, bottom = window
        assert 0 <= left <= x0 <= x1 <= right <= width
        assert 0 <= top <= y0 <= y1 <= bottom <= height


@pytest.mark.parametrize("values", [(0.99, 48), (2.0, 0), (float("nan"), 48), (-1.0, 48)])
def test_a_zoom_that_is_not_valid_is_refused(values: tuple[float, int]) -> None:
    with pytest.raises(ValueError, match="context and a smallest side of at least 1"):
        Zoom(*values)


@dataclass
class Script:
    """Answers with the boxes given, one after the other, and keeps what it was asked."""

    boxes: list[tuple[int, int, int, int] | None]
    encoded: list[Window | None] = field(default_factory=list)
    decoded: list[Prompt] = field(default_factory=list)
    answers: list[Result] = field(default_factory=list)
    scores: tuple[float, ...] = ()

    def encode(self, window: Window | None) -> Any:
        self.encoded.append(window)
        return window

    def decode(self, embedding: Any, prompt: Prompt) -> Result:
        self.decoded.append(prompt)
        turn = len(self.answers)
        self.answers.append(answer(self.boxes[turn], embedding, self.scores[turn] if self.scores else 1.0))
        return self.answers[-1]

    def run(self, **prompt: Any) -> Result:
        return segment_zoomed(self.encode, self.decode, Prompt(**prompt), SIZE, Zoom())


def answer(box: tuple[int, int, int, int] | None, window: Window | None, score: float = 1.0) -> Result:
    mask = np.zeros(SIZE, bool)
    if box:
        mask[box[1] : box[3], box[0] : box[2]] = True
    frame = PREPROCESSING.frame(SIZE, window)
    logits = np.zeros((1, 16, 16), np.float32)
    return Result((Region(SIZE, 0, 0, mask),), np.array([score], np.float32), logits, frame, {}, {}, "none", "none")


FOUND = (100, 100, 140, 120)
CLOSE = (80, 70, 160, 150)  # its window


def test_a_box_is_looked_at_once() -> None:
    script = Script([FOUND])
    result = script.run(box=FOUND)
    assert script.encoded == [CLOSE]
    assert result is script.answers[0]
    assert script.decoded[0].box == FOUND


def test_points_are_answered_on_the_whole_image_first() -> None:
    script = Script([FOUND, FOUND])
    result = script.run(points=[(110, 110)])
    assert script.encoded == [None, CLOSE]
    assert result is script.answers[1]
    np.testing.assert_array_equal(script.decoded[1].points, [(110, 110)])


@pytest.mark.parametrize(("scores", "kept"), [((0.8, 0.69), 0), ((0.8, 0.71), 1), ((0.1, 0.9), 1)])
def test_a_second_look_that_believes_in_itself_much_less_has_lost_the_object(
    scores: tuple[float, float], kept: int
) -> None:
    script = Script([FOUND, FOUND], scores=scores)
    assert script.run(points=[(110, 110)]) is script.answers[kept]
    assert script.encoded == [None, CLOSE]


def test_the_window_of_points_holds_them_also_where_the_first_answer_does_not() -> None:
    script = Script([FOUND, FOUND])
    script.run(points=[(110, 110), (179, 110)])
    # The object and the pixel of the click: 100 to 180, 100 to 120.
    assert script.encoded == [None, (60, 30, 220, 190)]


def test_stray_parts_of_the_first_answer_do_not_widen_the_window() -> None:
    script = Script([FOUND, FOUND])
    decode = script.decode

    def with_a_stray_part(embedding: Any, prompt: Prompt) -> Result:
        result = decode(embedding, prompt)
        result.regions[0].inside[5:9, 390:396] = True
        return result

    script.decode = with_a_stray_part  # type: ignore[method-assign]
    script.run(points=[(110, 110)])
    assert script.encoded == [None, CLOSE]
    # A click beside all parts says nothing of which is meant: the window must hold them all, and so is the whole image.
    script = Script([FOUND])
    decode = script.decode
    script.decode = with_a_stray_part  # type: ignore[method-assign]
    script.run(points=[(20, 20)])
    assert script.encoded == [None]


def test_a_box_and_points_are_looked_at_once_in_a_window_of_both() -> None:
    script = Script([FOUND])
    script.run(box=FOUND, points=[(179, 110), (10, 10), (90, 90)], labels=[1, 0, 0])
    assert script.encoded == [(60, 30, 220, 190)]
    # Nothing is segmented outside anyway.
    np.testing.assert_array_equal(script.decoded[0].points, [(179, 110), (90, 90)])
    np.testing.assert_array_equal(script.decoded[0].labels, [1, 0])


def test_of_background_points_that_are_all_outside_none_is_left() -> None:
    script = Script([FOUND])
    script.run(box=FOUND, points=[(10, 10), (160, 100), (100, 150)], labels=[0, 0, 0])
    assert script.encoded == [CLOSE]
    assert script.decoded[0].kinds == ("box",)
    assert script.decoded[0].labels is None


def test_a_drawn_mask_is_answered_on_the_whole_image_first() -> None:
    drawn = np.zeros(SIZE, bool)
    drawn[5:9, 5:9] = True
    script = Script([FOUND, FOUND])
    script.run(mask=drawn)
    assert script.encoded == [None, CLOSE]
    assert all(prompt.mask is drawn for prompt in script.decoded)


def test_a_former_result_keeps_its_window_at_the_cost_of_one_decode() -> None:
    former = answer((90, 80, 150, 140), CLOSE)
    script = Script([FOUND])
    result = script.run(points=[(159, 149), (10, 10)], labels=[1, 0], mask=former)
    assert script.encoded == [CLOSE]
    assert result is script.answers[0]
    assert script.decoded[0].mask is former
    np.testing.assert_array_equal(script.decoded[0].points, [(159, 149)])


@pytest.mark.parametrize("found", [(80, 90, 99, 99), (90, 70, 99, 99), (90, 90, 160, 99), (90, 90, 99, 150), None])
def test_a_former_result_that_is_cut_by_its_window_is_looked_at_again(found: Any) -> None:
    script = Script([FOUND, FOUND])
    script.run(points=[(110, 110)], mask=answer(found, CLOSE))
    assert script.encoded == [None, CLOSE]


@pytest.mark.parametrize(
    ("found", "window"), [((0, 0, 9, 9), (0, 0, 80, 80)), ((390, 290, 400, 300), (320, 220, *SIZE[::-1]))]
)
def test_the_images_own_border_cuts_nothing_off(found: Any, window: Window) -> None:
    script = Script([FOUND])
    script.run(mask=answer(found, window))
    assert script.encoded == [window]


def test_a_click_outside_the_former_window_is_looked_at_again() -> None:
    script = Script([FOUND, FOUND])
    script.run(points=[(160, 110)], mask=answer((90, 80, 150, 140), CLOSE))
    assert script.encoded[0] is None


def test_a_box_says_more_than_the_former_window() -> None:
    script = Script([FOUND])
    script.run(box=(200, 200, 240, 220), mask=answer((90, 80, 150, 140), CLOSE))
    assert script.encoded == [(180, 170, 260, 250)]


def test_a_former_result_of_the_whole_image_is_zoomed_into() -> None:
    script = Script([FOUND, FOUND])
    script.run(points=[(110, 110)], mask=answer(FOUND, None))
    assert script.encoded == [None, CLOSE]


def test_an_empty_or_large_first_answer_stays_the_answer() -> None:
    for found in (None, (0, 0, 200, 200)):
        script = Script([found])
        assert script.run(points=[(110, 110)]) is script.answers[0]
        assert script.encoded == [None]


def test_a_large_box_is_answered_on_the_whole_image() -> None:
    script = Script([FOUND])
    script.run(box=(10, 10, 300, 200))
    assert script.encoded == [None]


def test_prompts_that_are_all_outside_the_window_leave_the_first_answer() -> None:
    script = Script([FOUND])
    assert script.run(points=[(10, 10)], labels=[0]) is script.answers[0]
    assert script.encoded == [None]


def test_logits_that_do_not_say_where_they_lie_are_refused() -> None:
    script = Script([])
    with pytest.raises(PromptError, match="give the former result itself as mask, or turn zoom off"):
        script.run(mask=np.zeros((16, 16), np.float32), box=FOUND)
    assert script.encoded == []
