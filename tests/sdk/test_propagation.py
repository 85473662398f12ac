"""Following an object: planes against nibabel's and the training's turns, rules by hand, sessions with a painter."""

import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import permutations, product
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nibabel
import numpy as np
import pytest
from numpy.typing import NDArray

import samsdk
from samsdk import PromptError, Volume, VolumeError
from samsdk.embedding import Embedding
from samsdk.errors import BackendError, CancelledError
from samsdk.masks import Region
from samsdk.prompts import Prompt
from samsdk.propagation import Following, Session, propagate
from samsdk.propagation.encodings import Encodings
from samsdk.propagation.following import Appearance, connected, next_box, next_window, slack_of
from samsdk.propagation.planes import Planes, choose_scale
from samsdk.results import Result
from samsdk.transforms import Preprocessing, Window
from samsdk.zoom import Zoom
from samsdk_training.volumes import to_eight_bits, upright

TURNS = [(order, signs) for order in permutations(range(3)) for signs in product((1, -1), repeat=3)]


def turned_volume(order: tuple[int, ...], signs: tuple[int, ...]) -> tuple[Volume, NDArray[np.uint8]]:
    """A volume whose stored axes run any way, and the same in nibabel's RAS+ order [X, Y, Z]."""
    canonical = np.random.default_rng(4).integers(0, 255, (4, 5, 6)).astype(np.uint8)
    image = nibabel.Nifti1Image(canonical, np.diag([2.0, 3.0, 4.0, 1.0]))
    orientation = np.stack([order, signs], axis=1)
    stored = image.as_reoriented(orientation)
    return Volume(np.asarray(stored.dataobj).T, np.asarray(stored.affine, dtype=np.float64)), canonical


# Planes --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("order", "signs"), TURNS)
def test_planes_stand_as_the_training_s_do(order: tuple[int, ...], signs: tuple[int, ...]) -> None:
    volume, canonical = turned_volume(order, signs)
    directions = nibabel.aff2axcodes(volume.affine)  # of x, y and z
    for axis in "zyx":
        planes = Planes(volume, axis)
        across = directions["xyz".index(axis)]
        expected = upright(
            canonical, next(name for name, ends in zip("xyz", ("RL", "AP", "SI"), strict=True) if across in ends)
        )
        if across in "LPI":
            expected = expected[::-1]
        assert len(planes) == len(expected)
        assert planes.size == expected.shape[1:]
        for index, plane in enumerate(expected):
            np.testing.assert_array_equal(planes.view(volume.array, index), plane)
            stored = volume.array.take(index, "zyx".index(axis))
            np.testing.assert_array_equal(planes.as_stored(planes.view(volume.array, index)), stored)


@pytest.mark.parametrize(("order", "signs"), TURNS[::5])
def test_prompts_in_voxels_lie_on_the_upright_plane_where_those_voxels_do(
    order: tuple[int, ...], signs: tuple[int, ...]
) -> None:
    volume, _ = turned_volume(order, signs)
    for axis in "zyx":
        planes = Planes(volume, axis)
        marked = np.zeros(volume.shape, bool)
        stored = marked.take(1, "zyx".index(axis))
        stored[1:3, 2:3] = True
        np.moveaxis(marked, "zyx".index(axis), 0)[1] = stored
        seen = planes.view(marked, 1)
        prompt = planes.prompt([(2, 1), (2, 2)], None, (2, 1, 3, 3))
        rows, columns = np.nonzero(seen)
        np.testing.assert_array_equal(prompt.box, [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
        points = np.asarray(prompt.points).astype(int)
        assert seen[points[:, 1], points[:, 0]].all()
        assert len(np.unique(points, axis=0)) == 2
        np.testing.assert_array_equal(prompt.labels, [1, 1])


def test_a_plane_s_image_is_scaled_as_the_training_s() -> None:
    values = np.random.default_rng(1).normal(100, 300, (6, 20, 30)).astype(np.float32)
    low, high = np.percentile(values, [0.5, 99.5])
    values[3] = 105.0
    volume = Volume.of(values)
    planes = Planes(volume, scale=(float(low), float(high)))
    for index in range(6):
        expected = to_eight_bits(upright(values.T, "z")[index], (float(low), float(high)))
        # Between two grey levels, float32 and float64 may round apart.
        assert np.abs(planes.image(index).astype(int) - expected).max() <= 1
    # A plane without any contrast keeps the grey that its numbers have elsewhere in the volume.
    assert len(np.unique(planes.image(3))) == 1
    assert 100 < planes.image(3)[0, 0] < 160


def test_scales() -> None:
    rng = np.random.default_rng(2)
    assert choose_scale(rng.integers(3, 90, (3, 4, 5)).astype(np.uint8)) == (0.0, 255.0)
    assert choose_scale(np.array([[[-1000, 40, 3000]]], np.int16)) == (-160.0, 240.0)
    scan = rng.gamma(2.0, 200.0, (10, 11, 12))
    assert choose_scale(scan) == pytest.approx(tuple(np.percentile(scan, [0.5, 99.5])))
    low, high = choose_scale(np.full((2, 2, 2), 7.0))
    assert low == 7.0 < high


def test_the_scale_of_a_large_volume_is_read_off_some_of_its_voxels(monkeypatch: pytest.MonkeyPatch) -> None:
    scan = np.random.default_rng(3).gamma(2.0, 200.0, (60, 61, 62))
    monkeypatch.setattr("samsdk.propagation.planes._ENOUGH", 10_000)
    np.testing.assert_allclose(choose_scale(scan), np.percentile(scan, [0.5, 99.5]), rtol=0.1)


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"axis": "w"}, "one of z, y, x"),
        ({"axis": ""}, "one of z, y, x"),
        ({"scale": (3.0, 3.0)}, "the lower one first"),
    ],
)
def test_planes_that_cannot_be(options: dict[str, Any], problem: str) -> None:
    with pytest.raises(VolumeError, match=problem):
        Planes(Volume.of(np.zeros((2, 3, 4))), **options)


# Rules by hand -------------------------------------------------------------------------------------------------------


def test_the_next_box_keeps_the_user_s_slack_and_adds_the_margin() -> None:
    slack = slack_of((8, 20, 34, 41), (10, 20, 30, 40), 0.5)
    # Half of 2, 0, 4 and 1 pixels, of a mask 20 wide and high.
    assert slack == pytest.approx((-0.05, 0, 0.1, 0.025))
    # A mask twice as large has twice the slack; nothing leaves the image.
    assert next_box((10, 10, 50, 50), slack, 3, (52, 100)) == pytest.approx((5, 7, 57, 52))
    # A user's box within the mask does not make later ones smaller.
    assert slack_of((12, 22, 28, 38), (10, 20, 30, 40), 1.0) == (0, 0, 0, 0)


@pytest.mark.parametrize(
    ("box", "last", "expected"),
    [
        pytest.param((120, 120, 150, 150), (100, 100, 160, 160), (100, 100, 160, 160), id="still fits"),
        pytest.param((125, 125, 143, 143), (100, 100, 160, 160), (110, 110, 158, 158), id="object became small"),
        pytest.param((105, 105, 158, 158), (100, 100, 160, 160), (78, 78, 184, 184), id="object became large"),
        pytest.param((90, 120, 120, 150), (100, 100, 160, 160), (75, 105, 135, 165), id="object left it"),
        pytest.param((10, 10, 250, 250), (100, 100, 160, 160), None, id="whole image"),
        pytest.param((120, 120, 150, 150), None, (105, 105, 165, 165), id="from the whole image"),
    ],
)
def test_windows_stay_as_long_as_they_fit(box: Any, last: Window | None, expected: Window | None) -> None:
    assert next_window(box, last, (300, 300), Zoom()) == expected
    assert next_window(box, last, (300, 300), None) is None


def test_appearance_by_hand() -> None:
    image = np.array([[100, 102, 104, 106, 250]], np.uint8)
    seen = Appearance.of(image, np.ones((1, 5), bool))
    # Distances from 104: 4, 2, 0, 2, 146; their median is 2.
    assert (seen.median, seen.deviation) == (104.0, 4.0)
    wide = Appearance.of(np.array([[80, 90, 100, 110, 120]], np.uint8), np.ones((1, 5), bool))
    assert wide.deviation == pytest.approx(14.826)
    assert wide.differs(np.array([[130, 10]], np.uint8), np.array([[True, False]])) == pytest.approx(30 / 14.826)


def test_parts_that_do_not_touch_the_last_mask_are_left_out() -> None:
    mask = np.zeros((10, 10), bool)
    mask[1:3, 1:3] = mask[6:9, 6:9] = True
    last = np.zeros((10, 10), bool)
    last[2, 2:5] = True
    kept = connected(Region((10, 10), 0, 0, mask), Region((10, 10), 0, 0, last)).full()
    assert kept.sum() == 4
    assert kept[1:3, 1:3].all()
    nowhere = Region((10, 10), 0, 0, np.zeros((10, 10), bool))
    assert connected(Region((10, 10), 0, 0, mask), nowhere).full().sum() == 13


@pytest.mark.parametrize(
    "options",
    [
        {"margin": -1.0},
        {"slack": 1.5},
        {"deviations": 0.0},
        {"smallest_share": 2.0},
        {"patience": -1},
        {"lowest_score": float("nan")},
    ],
)
def test_settings_that_are_none(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="expected margin >= 0"):
        Following(**options)


# Embeddings ----------------------------------------------------------------------------------------------------------


def embedding_of(values: NDArray[np.float32], window: Window | None = None) -> Embedding:
    height, width = values.shape
    return Embedding({"image_embeddings": values}, Preprocessing(64).frame((height, width), window), "painter", "none")


def test_the_embeddings_used_longest_ago_go_first() -> None:
    made: list[int] = []

    def encode(index: int, window: Window | None) -> Embedding:
        made.append(index)
        return embedding_of(np.zeros((10, 10), np.float32))  # 400 bytes

    encodings = Encodings(encode, 1300)
    for index in (0, 1, 2, 0, 3, 0, 1, 3):
        encodings.get(index, None)
        assert encodings.kept_bytes <= 1300
    assert made == [0, 1, 2, 3, 1]
    small = Encodings(encode, 10)
    small.get(5, None)
    small.get(5, None)
    assert made[5:] == [5]


def test_what_was_prepared_is_not_made_again() -> None:
    begun, go = threading.Event(), threading.Event()
    made: list[int] = []

    def encode(index: int, window: Window | None) -> Embedding:
        made.append(index)
        begun.set()
        assert go.wait(10)
        return embedding_of(np.zeros((2, 2), np.float32))

    encodings = Encodings(encode, 10**6)
    encodings.prepare(7, None)
    encodings.prepare(8, None)
    assert begun.wait(10)
    encodings.forget_coming()  # 8 is not begun
    go.set()
    encodings.get(7, None)
    encodings.get(7, (0, 0, 1, 1))
    assert made == [7, 7]


def test_an_encoder_that_fails_is_asked_again() -> None:
    answers: Iterator[Any] = iter([BackendError("no memory"), embedding_of(np.zeros((2, 2), np.float32))])

    def encode(index: int, window: Window | None) -> Embedding:
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        assert isinstance(answer, Embedding)
        return answer

    encodings = Encodings(encode, 10**6)
    with pytest.raises(BackendError, match="no memory"):
        encodings.get(0, None)
    assert encodings.get(0, None).bundle == "painter"
    assert encodings.encoded == 1


# Sessions ------------------------------------------------------------------------------------------------------------


@dataclass
class Painter:
    """A predictor whose model finds what is brighter than 100 in a box, or the pixels around a point."""

    zoomed: Zoom | None = None
    trained: tuple[str, ...] = ("points", "box", "mask")
    encoded: list[tuple[int, Window | None]] = field(default_factory=list)
    asked: list[Prompt] = field(default_factory=list)
    before: Callable[[], None] = lambda: None
    provider: str = "none"
    embedding: tuple[int, ...] = (1, 40, 50)

    def __post_init__(self) -> None:
        self.bundle = SimpleNamespace(identity="painter")
        self.manifest = SimpleNamespace(
            name="painter",
            prompt_kinds=("points", "box", "mask"),
            trained_kinds=self.trained,
            preprocessing=SimpleNamespace(input_size=64),
            embedding={"image_embeddings": self.embedding},
            auto=None,
        )

    def zoom(self, wanted: bool | None) -> Zoom | None:
        return None if wanted is False else self.zoomed

    def encode(self, image: NDArray[np.uint8], *, window: Window | None = None) -> Embedding:
        self.encoded.append((int(image.sum()), window))
        return embedding_of(image.astype(np.float32), window)

    def decode(self, embedding: Embedding, *, box: Any, mask: Any = None) -> Result:
        return self.decode_batch(embedding, [Prompt(box=box, mask=mask)])[0]

    def decode_batch(self, embedding: Embedding, prompts: list[Prompt]) -> list[Result]:
        self.before()
        (prompt,) = prompts
        self.asked.append(prompt)
        image = embedding.image_embeddings
        x0, y0, x1, y1 = embedding.frame.window
        shown = np.zeros(image.shape, bool)
        shown[y0:y1, x0:x1] = True
        if prompt.box is not None:
            left, top, right, bottom = np.asarray(prompt.box, float)
            assert x0 <= left < right <= x1
            assert y0 <= top < bottom <= y1
            inside = np.zeros(image.shape, bool)
            inside[int(top) : int(np.ceil(bottom)), int(left) : int(np.ceil(right))] = True
            found = shown & inside & (image > 100)
        else:
            found = shown & (image > 100)
        if prompt.points is not None:
            (columns, rows), labels = np.asarray(prompt.points, int).T, np.asarray(prompt.labels)
            found[rows, columns] = labels == 1
        score = np.array([0.9 if found.any() else 0.1], np.float32)
        logits = np.zeros((1, 16, 16), np.float32)
        region = Region(image.shape, 0, 0, found)
        return [Result((region,), score, logits, embedding.frame, {}, {}, "none", "painter")]


SHAPE = (30, 40, 50)
CENTRE = (14, 20, 24)


def ball(radius: float = 9.3) -> NDArray[np.bool_]:
    """A ball around `CENTRE`."""
    z, y, x = np.indices(SHAPE)
    return (z - CENTRE[0]) ** 2 + (y - CENTRE[1]) ** 2 + (x - CENTRE[2]) ** 2 <= radius**2


def scan(*others: tuple[tuple[slice, slice, slice], int]) -> Volume:
    """The ball, at 200 of 255, and other things, over or under it."""
    array = np.full(SHAPE, 20, np.uint8)
    for place, value in others:
        array[place] = value
    array[ball()] = 200
    return Volume.of(array, (2.0, 0.5, 0.5))


BOX = (15, 11, 34, 30)
"""Of the ball across z, at its centre."""


def predictor_of(painter: Painter) -> Any:
    return painter


@pytest.mark.parametrize("zoom", [None, Zoom(2.0, 8)])
@pytest.mark.parametrize("axis", "zyx")
def test_a_ball_is_found_whole(axis: str, zoom: Zoom | None) -> None:
    painter = Painter(zoom)
    place = "zyx".index(axis)
    section = ball().take(CENTRE[place], place)
    rows, columns = np.flatnonzero(section.any(1)), np.flatnonzero(section.any(0))
    box = (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)
    session = Session(predictor_of(painter), scan(), axis=axis)
    result = session.prompt(CENTRE[place], box=box)
    np.testing.assert_array_equal(result.label_map > 0, ball())
    assert result.volumes_ml() == {"object": pytest.approx(ball().sum() * 0.0005)}
    assert list(session.found) == list(np.flatnonzero(ball().any(axis=tuple({0, 1, 2} - {place}))))
    assert set(result.timings) == {"first", "total"}
    # At each end the object is looked for on two planes more, and one is encoded ahead; windows differ in size.
    assert session.encoded <= len(session.found) + (6 if zoom is None else 16)


def test_the_whole_of_a_call_and_points() -> None:
    by_hand = propagate(predictor_of(Painter()), scan(), slice_index=14, points=[(24, 20)])
    np.testing.assert_array_equal(by_hand.label_map > 0, ball())


def test_what_looks_different_behind_the_end_is_not_taken_for_the_object() -> None:
    column = (slice(24, None), slice(15, 26), slice(19, 30))
    found = propagate(predictor_of(Painter()), scan((column, 140)), slice_index=14, box=BOX)
    np.testing.assert_array_equal(found.label_map > 0, ball())
    everything = Following(deviations=float("inf"), smallest_share=0.0)
    found = propagate(predictor_of(Painter()), scan((column, 140)), slice_index=14, box=BOX, following=everything)
    assert (found.label_map[29] > 0).sum() == 121


@pytest.mark.parametrize(("patience", "there"), [(0, False), (1, True)])
def test_one_odd_slice_does_not_end_an_object(patience: int, there: bool) -> None:
    volume = scan()
    volume.array[11] = 20
    following = Following(patience=patience)
    session = Session(predictor_of(Painter()), volume, following=following)
    found = session.prompt(14, box=BOX).label_map > 0
    assert 11 not in session.found
    assert (10 in session.found) == there
    np.testing.assert_array_equal(found[12:], ball()[12:])


def test_a_collapse_and_a_low_score_end_it() -> None:
    volume = scan()
    volume.array[17:] = 20
    volume.array[17:, 20, 24] = 200  # one pixel goes on
    for following, last in ((Following(), 16), (Following(smallest_share=0.0), 29)):
        session = Session(predictor_of(Painter()), volume, following=following)
        session.prompt(14, box=BOX)
        assert max(session.found) == last
    strict = Session(predictor_of(Painter()), volume, following=Following(lowest_score=0.95, patience=0))
    strict.prompt(14, box=BOX)
    assert list(strict.found) == [14]


def test_an_extent_is_kept_to_whatever_it_looks_like() -> None:
    column = (slice(None), slice(15, 26), slice(19, 30))
    volume = scan((column, 140))
    session = Session(predictor_of(Painter()), volume)
    session.prompt(14, box=BOX, extent=(10, 27))
    assert list(session.found) == list(range(10, 28))
    # Where it is lost, it is looked for again in the box that was given.
    volume.array[16:19] = 20
    session = Session(predictor_of(Painter()), volume)
    session.prompt(14, box=BOX, extent=(14, 20))
    assert list(session.found) == [14, 15, 19, 20]


def test_masks_are_given_where_they_are_asked_for_and_known() -> None:
    for trained, expected in ((("box", "mask"), True), (("box",), False)):
        painter = Painter(trained=trained)
        propagate(predictor_of(painter), scan(), slice_index=14, box=BOX, following=Following(masks=True))
        assert all((prompt.mask is not None) == expected for prompt in painter.asked[1:])
        assert painter.asked[0].mask is None


def test_a_correction_goes_as_far_as_the_next_slice_that_was_prompted() -> None:
    painter = Painter()
    volume = scan()
    session = Session(predictor_of(painter), volume)
    session.prompt(14, box=BOX)
    encoded = len(painter.encoded)
    # A user who knows better: all of a larger box is the object, from slice 18 on.
    painter.asked.clear()
    volume.array[18:21, 8:33, 12:37] = 200
    before = dict(session.found)
    session._encodings = session._tracker._encodings = Encodings(session._encode, 10**8)  # the voxels changed
    corrected = session.correct(18, box=(12, 8, 37, 33)).label_map > 0
    np.testing.assert_array_equal(corrected[18:21], volume.array[18:21] == 200)
    assert all(session.found[index] is before[index] for index in range(5, 15))
    assert session.found[16] is not before[16]
    assert all(prompt.box is not None for prompt in painter.asked)
    assert len(painter.encoded) > encoded


def test_a_correction_encodes_nothing_again_and_adds_to_what_was_said() -> None:
    painter = Painter()
    session = Session(predictor_of(painter), scan())
    session.prompt(14, box=BOX)
    time.sleep(0.05)  # what was begun ahead of the end is done
    encoded = session.encoded
    painter.asked.clear()
    session.correct(16, points=[(24, 20), (40, 20)], labels=[1, 0])
    asked = painter.asked[0]
    assert session.encoded == encoded
    assert asked.mask is not None
    # The axes of the array run up: upright, a row of 40 is counted from the other end.
    np.testing.assert_array_equal(asked.points, [(24, 19), (40, 19)])
    np.testing.assert_array_equal(asked.labels, [1, 0])
    assert list(asked.box) == [15, 10, 34, 29]  # of the ball at slice 16; the background's point is not within
    session.correct(16, points=[(36, 20)])
    asked = next(prompt for prompt in painter.asked[1:] if prompt.points is not None)
    np.testing.assert_array_equal(asked.points, [(24, 19), (40, 19), (36, 19)])
    np.testing.assert_array_equal(asked.labels, [1, 0, 1])
    assert list(asked.box) == [15, 10, 37, 29]
    assert session.encoded == encoded


def test_a_call_that_is_cancelled_changes_nothing() -> None:
    cancel = threading.Event()
    painter = Painter()
    session = Session(predictor_of(painter), scan())
    first = session.prompt(14, box=BOX)
    calls: list[tuple[int, int]] = []

    def progress(done: int, most: int) -> None:
        calls.append((done, most))
        if done == 3:
            cancel.set()

    with pytest.raises(CancelledError, match="after 3 of 30 slices"):
        session.prompt(13, box=(0, 0, 50, 40), progress=progress, cancel=cancel)
    assert calls == [(1, 30), (2, 30), (3, 30)]
    np.testing.assert_array_equal(session.result().label_map, first.label_map)
    with pytest.raises(CancelledError):
        session.correct(13, box=BOX, cancel=cancel)
    assert session.correct(13, box=BOX).timings["total"] > 0


def test_progress_ends_with_all() -> None:
    calls: list[tuple[int, int]] = []
    propagate(
        predictor_of(Painter()), scan(), slice_index=14, box=BOX, progress=lambda done, most: calls.append((done, most))
    )
    assert calls[-1] == (30, 30)
    assert [done for done, _ in calls] == sorted({done for done, _ in calls})


def test_an_engine_that_fails_changes_nothing() -> None:
    painter = Painter()
    session = Session(predictor_of(painter), scan())
    first = session.prompt(14, box=BOX)

    def fail() -> None:
        if len(painter.asked) > 30:
            raise BackendError("lost")

    painter.before = fail
    with pytest.raises(BackendError, match="lost"):
        session.prompt(15, box=BOX)
    np.testing.assert_array_equal(session.result().label_map, first.label_map)


def test_several_threads_may_use_one_session() -> None:
    session = Session(predictor_of(Painter()), scan())
    results: list[Any] = []
    threads = [threading.Thread(target=lambda: results.append(session.prompt(14, box=BOX).label_map)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert len(results) == 4
    for label_map in results:
        np.testing.assert_array_equal(label_map > 0, ball())


def test_nothing_found_is_an_empty_label_map() -> None:
    session = Session(predictor_of(Painter()), scan())
    result = session.prompt(0, box=(0, 0, 5, 5))
    assert not result.label_map.any()
    assert result.volumes_ml() == {"object": 0.0}
    assert not session.found
    assert not session.preview(0, box=(0, 0, 5, 5)).any()


def test_the_result_lies_on_the_volume_s_own_grid(tmp_path: Path) -> None:
    volume = scan()
    affine = np.array([[0, 0, -2.0, 30], [-0.5, 0, 0, 4], [0, 0.5, 0, 5], [0, 0, 0, 1]])
    turned = Volume(volume.array, affine)
    result = propagate(predictor_of(Painter()), turned, slice_index=14, box=BOX)
    np.testing.assert_array_equal(result.label_map > 0, ball())
    result.save(tmp_path / "ball.nii.gz")
    stored = nibabel.load(tmp_path / "ball.nii.gz")
    np.testing.assert_allclose(stored.affine, affine)
    np.testing.assert_array_equal(np.asarray(stored.dataobj).T > 0, ball())


def test_an_oblique_volume_is_followed_on_its_own_planes(tmp_path: Path) -> None:
    """Turned by 25 and 15 degrees: its planes stand as those of the nearest right angles, its answer lies askew."""
    a, b = np.radians([25, 15])
    turn = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
    turn = turn @ np.array([[np.cos(b), -np.sin(b), 0], [np.sin(b), np.cos(b), 0], [0, 0, 1]])
    straight = np.array([[0, 0, -2.0, 30], [-0.5, 0, 0, 4], [0, 0.5, 0, 5], [0, 0, 0, 1]])
    affine = straight.copy()
    affine[:3, :3] = turn @ straight[:3, :3]
    assert (np.abs(affine[:3, :3]) > 0.01).sum() > 6
    # A side that is none of the others' mirror image, so that a wrong turn shows.
    volume = Volume(scan((np.s_[14, 5:9, 3:12], 180)).array, affine)
    for axis in "zyx":
        planes, right = Planes(volume, axis), Planes(Volume(volume.array, straight), axis)
        np.testing.assert_array_equal(planes.image(10), right.image(10))
    result = propagate(predictor_of(Painter()), volume, slice_index=14, box=BOX)
    np.testing.assert_array_equal(result.label_map > 0, ball())
    assert result.volumes_ml()["object"] == pytest.approx(ball().sum() * 0.0005)
    result.save(tmp_path / "ball.nii.gz")
    stored = nibabel.load(tmp_path / "ball.nii.gz")
    np.testing.assert_allclose(stored.affine, affine, atol=1e-6)
    np.testing.assert_array_equal(np.asarray(stored.dataobj).T > 0, ball())


@pytest.mark.parametrize("zoom", [None, Zoom(2.0, 8)])
@pytest.mark.parametrize("axis", "zyx")
def test_a_volume_of_one_slice(axis: str, zoom: Zoom | None) -> None:
    """One plane across its short axis, planes of one row or column across the others."""
    place = "zyx".index(axis)
    volume = scan()
    section = Volume(volume.array[14:15], volume.affine)
    expected = ball()[14:15]
    session = Session(predictor_of(Painter(zoom)), section, axis=axis)
    index = (0, 20, 24)[place]
    rows, columns = (np.flatnonzero(expected.take(index, place).any(other)) for other in (1, 0))
    calls: list[tuple[int, int]] = []
    result = session.prompt(
        index,
        box=(columns[0], rows[0], columns[-1] + 1, rows[-1] + 1),
        progress=lambda done, most: calls.append((done, most)),
    )
    np.testing.assert_array_equal(result.label_map > 0, expected)
    assert result.label_map.shape == (1, 40, 50)
    assert calls[-1] == (section.shape[place],) * 2
    assert session.plan().slices == section.shape[place]
    corrected = session.correct(index, box=(columns[0], rows[0], columns[-1] + 1, rows[-1] + 1))
    np.testing.assert_array_equal(corrected.label_map > 0, expected)


def test_no_orientation_is_warned_of() -> None:
    unknown = Volume(scan().array, scan().affine, oriented=False)
    with pytest.warns(UserWarning, match="does not say how the patient lies; its slices may not stand") as caught:
        Session(predictor_of(Painter()), unknown)
    assert caught[0].filename == __file__
    with pytest.warns(UserWarning, match="how the patient lies"):
        propagate(predictor_of(Painter()), unknown, slice_index=14, box=BOX)


@pytest.mark.parametrize("memory_mb", [1.0, 100.0])
def test_memory_is_as_planned(memory_mb: float) -> None:
    array = np.full((60, 256, 256), 20, np.uint8)
    array[5:55, 20:230, 30:240] = 200
    session = Session(predictor_of(Painter(embedding=(1, 256, 256))), Volume.of(array), memory_mb=memory_mb)
    plan = session.plan()
    assert plan.slices == 60
    assert plan.process_bytes is not None
    assert plan.process_bytes > plan.peak_bytes + array.nbytes
    kept = min(memory_mb * 1e6, 124 * 4 * 256**2)
    assert plan.peak_bytes == int(kept) + 256**2 * (3 * 4 + 60 + 2 * 60 + 64)
    tracemalloc.start()
    result = session.prompt(30, box=(30, 20, 240, 230))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (result.label_map > 0).sum() == 50 * 210 * 210
    assert 0.3 * plan.peak_bytes < peak <= plan.peak_bytes
    assert session.plan((10, 19)).slices == 10
    assert session.plan((10, 19)).peak_bytes < plan.peak_bytes
    with pytest.raises(PromptError, match="a first and a last slice"):
        session.plan((10, 60))


@pytest.mark.parametrize(
    ("index", "prompt", "problem"),
    [
        (30, {"box": BOX}, "the slice must be within 0 to 29 across z, got 30"),
        (-1, {"box": BOX}, "within 0 to 29"),
        (14, {}, "no prompt at all"),
        (14, {"labels": [1]}, "labels without points"),
        (14, {"box": (10, 10, 5, 20)}, "x0 < x1"),
        (14, {"box": (0, 0, 51, 20)}, r"inside the slice of 50 x 40 pixels"),
        (14, {"box": (1, 2, 3)}, "pairs of numbers"),
        (14, {"points": [(50, 3)]}, "inside the slice"),
        (14, {"points": [(5, 3)], "labels": [1, 0]}, "one entry per point"),
        (14, {"points": [("a", "b")]}, "pairs of numbers"),
        (14, {"box": BOX, "extent": (15, 20)}, "a first and a last slice"),
        (14, {"box": BOX, "extent": (10, 30)}, "a first and a last slice"),
    ],
)
def test_prompts_that_cannot_be(index: int, prompt: dict[str, Any], problem: str) -> None:
    session = Session(predictor_of(Painter()), scan())
    with pytest.raises(PromptError, match=problem):
        session.prompt(index, **prompt)
    with pytest.raises(PromptError, match="nothing was prompted yet"):
        session.correct(14, box=BOX)


def test_a_bundle_without_boxes_is_refused(semantic_bundle: Path) -> None:
    with pytest.raises(PromptError, match="needs a bundle that takes boxes; 'organs' takes no prompt"):
        Session(samsdk.load(semantic_bundle, device="cpu"), scan())


# A real bundle -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def stack(cell: NDArray[np.uint8]) -> Volume:
    """Eight planes of 96x80: a cell, moving by three pixels from one to the next; rows run downwards."""
    planes = [cell[200 + 3 * step : 296 + 3 * step, 250:330].astype(np.int16) * 8 for step in range(8)]
    return Volume(np.stack(planes), np.diag([1.0, -1.0, 2.0, 1.0]))


@pytest.mark.parametrize("zoom", [False, True])
def test_a_slice_is_answered_as_an_image(predictor: samsdk.Predictor, stack: Volume, zoom: bool) -> None:
    session = Session(predictor, stack, zoom=zoom)
    image = session.planes.image(3)
    for prompt in ({"box": (20, 30, 50, 60)}, {"points": [(30, 40), (5, 5)], "labels": [1, 0]}):
        expected = predictor.segment(image, zoom=zoom, **prompt)
        assert expected.mask.any()
        np.testing.assert_array_equal(session.preview(3, **prompt), expected.mask)


def test_a_real_bundle_follows_and_corrects(predictor: samsdk.Predictor, stack: Volume) -> None:
    session = Session(predictor, stack, memory_mb=0.2)
    everything = session.prompt(3, box=(20, 30, 50, 60), extent=(0, 7))
    assert everything.label_map.shape == stack.shape
    assert everything.label_map.any(axis=(1, 2)).sum() == len(session.found) > 4
    assert (everything.provider, everything.bundle) == (predictor.provider, predictor.bundle.identity)
    np.testing.assert_array_equal(everything.label_map[3] > 0, session.preview(3, box=(20, 30, 50, 60)))
    again = propagate(predictor, stack, slice_index=3, box=(20, 30, 50, 60), extent=(0, 7))
    np.testing.assert_array_equal(again.label_map, everything.label_map)
    assert session._encodings.kept_bytes <= 0.2e6
    corrected = session.correct(5, points=[(30, 40)])
    np.testing.assert_array_equal(corrected.label_map[:4], everything.label_map[:4])
