import numpy as np
import pytest
from scipy import ndimage
from skimage import data

from samsdk_training.synthesis import SynthesisConfig
from samsdk_training.synthesis.geometry import (
    STILL,
    Motion,
    draw_motion,
    move,
    object_matrix,
    split_groups,
    whole_matrix,
)

IMAGE = np.ascontiguousarray(data.camera()[100:196, 180:300])


def blob() -> np.ndarray:
    label = np.zeros(IMAGE.shape, np.uint8)
    label[30:60, 40:80] = 4
    label[50:70, 60:90] = 7
    return label


def reference(array: np.ndarray, matrix: np.ndarray, order: int) -> np.ndarray:
    """The same map by scipy, whose coordinates are (row, column) and go from output to input."""
    whole = np.vstack([matrix, [0, 0, 1]])
    swap = np.array([[0, 1, 0], [1, 0, 0], [0, 0, 1]])
    inverse = np.linalg.inv(swap @ whole @ swap)
    mode = "constant" if order == 0 else "nearest"
    return ndimage.affine_transform(array.astype(float), inverse, order=order, mode=mode)


def whole_frame(motion: Motion, label: np.ndarray, margin: int = 0) -> tuple[np.ndarray, np.ndarray]:
    image, moved = np.zeros(IMAGE.shape), np.zeros(IMAGE.shape, np.uint8)
    (group,) = split_groups(label, "together")
    patch = move(IMAGE, group, motion, np.random.default_rng(0), margin=margin)
    assert patch is not None
    image[patch.place], moved[patch.place] = patch.image, patch.label
    return image, moved


MATRICES = {
    "turned": object_matrix((61.3, 48.2), (0.8, 1.3), 27, 8),
    "mirrored and moved": np.array([[-1.0, 0, 117], [0, 1, 3]]),
    "shrunk": object_matrix((50, 50), (0.6, 0.5), -35, -6),
    "leaving the frame": np.array([[1.2, 0.1, 25], [-0.2, 1.1, 30]]),
}


@pytest.mark.parametrize("matrix", MATRICES.values(), ids=MATRICES)
def test_pixels_and_labels_are_where_scipy_puts_them(matrix: np.ndarray) -> None:
    image, moved = whole_frame(Motion(matrix), blob())
    expected = reference(blob(), matrix, 0)
    # Pixels whose source lies on a border by a rounding error may fall on either side.
    assert (moved != expected).sum() <= 4
    assert moved.any()
    inside = (moved > 0) & (expected > 0)
    # OpenCV knows places between pixels to 1/32 only.
    assert np.abs(image - reference(IMAGE, matrix, 1))[inside].max() <= 8
    assert np.abs(image - reference(IMAGE, matrix, 1))[inside].mean() < 1


def test_nothing_moves_without_motion() -> None:
    image, moved = whole_frame(STILL, blob(), margin=200)
    assert np.array_equal(image, IMAGE)
    assert np.array_equal(moved, blob())


def test_there_and_back_again_is_where_it_was() -> None:
    matrix = object_matrix((61, 48), (1.3, 1.2), 33, 9)
    _, there = whole_frame(Motion(matrix), blob())
    back = np.linalg.inv(np.vstack([matrix, [0, 0, 1]]))[:2]
    _, again = whole_frame(Motion(back), there)
    for value in (4, 7):
        first, second = blob() == value, again == value
        assert 2 * (first & second).sum() / (first.sum() + second.sum()) > 0.97


def test_angles_are_counter_clockwise_and_lines_lean() -> None:
    quarter = object_matrix((10, 20), (2, 3), 90)
    # Three to the right of the centre, twice as far, and up.
    assert np.allclose(quarter @ [13, 20, 1], [10, 14])
    assert np.allclose(object_matrix((0, 0), (1, 1), 0, 45) @ [0, 2, 1], [2, 2])


def test_a_drawn_motion_keeps_the_centroid_and_the_ranges() -> None:
    config = SynthesisConfig(elastic=0.0)
    (group,) = split_groups(blob(), "together")
    rows, columns = np.nonzero(blob())
    assert group.centre == pytest.approx((columns.mean(), rows.mean()))
    rng = np.random.default_rng(0)
    areas = []
    for _ in range(300):
        matrix = draw_motion(group, np.eye(2, 3), rng, config).matrix
        assert np.allclose(matrix @ [*group.centre, 1], group.centre)
        areas.append(np.linalg.det(matrix[:, :2]))
    # Size times stretch in both directions, (0.6 * 0.8)^2 to (1.6 * 1.2)^2, and most of that range is used.
    assert 0.48**2 <= min(areas) < 0.35
    assert 2.5 < max(areas) <= 1.92**2


def test_flips_and_shifts_are_shared_and_about_the_image() -> None:
    flips = SynthesisConfig(flip_horizontal=1, flip_vertical=1, shift=0)
    assert whole_matrix((96, 120), np.random.default_rng(0), flips).tolist() == [[-1, 0, 119], [0, -1, 95]]
    shifts = SynthesisConfig(shift=1, shifts=(0.1, 0.1))
    matrix = whole_matrix((96, 120), np.random.default_rng(0), shifts)
    assert np.allclose(matrix, [[1, 0, 12], [0, 1, 9.6]])
    (group,) = split_groups(blob(), "together")
    still = SynthesisConfig(sizes=(1, 1), stretches=(1, 1), angles=(0, 0), shears=(0, 0), elastic=0)
    moved = draw_motion(group, matrix, np.random.default_rng(0), still).matrix
    assert np.allclose(moved, matrix)


def test_elastic_motion_stays_within_its_reach_and_has_the_strength_it_says() -> None:
    """Columns and rows as the image: what arrives names where it came from."""
    label = np.ones((200, 240), np.uint8)
    (group,) = split_groups(label, "together")
    strays = []
    for axis in (0, 1):
        ramp = np.broadcast_to(np.arange(240)[None] if axis == 0 else np.arange(200)[:, None], (200, 240))
        motion = Motion(np.eye(2, 3), alpha=60.0, sigma=5.0)
        patch = move(ramp.astype(np.uint8).copy(), group, motion, np.random.default_rng(3))
        assert patch is not None
        stray = patch.image.astype(float) - ramp[patch.place]
        strays.append(stray[20:-20, 20:-20])
        assert np.abs(strays[-1]).max() <= motion.reach + 0.5
    # Uniform noise of deviation 1/sqrt(3), smoothed: 60 / (2 * 5 * sqrt(3 * pi)) pixels.
    assert np.std(strays) == pytest.approx(1.95, rel=0.15)


@pytest.mark.parametrize(("groups", "count"), [("together", 1), ("class", 2), ("component", 3)])
def test_groups_share_all_pixels_among_them(groups: str, count: int) -> None:
    label = blob()
    label[5:10, 5:10] = 7
    cut = split_groups(label, groups)  # type: ignore[arg-type]
    assert len(cut) == count
    whole = np.zeros_like(label)
    for group in cut:
        x, y = group.origin
        height, width = group.label.shape
        assert not (whole[y : y + height, x : x + width][group.label > 0]).any()
        whole[y : y + height, x : x + width] += group.label
    assert np.array_equal(whole, label)


def test_what_has_left_the_frame_is_nothing() -> None:
    (group,) = split_groups(blob(), "together")
    away = Motion(np.array([[1.0, 0, 500], [0, 1, 0]]))
    assert move(IMAGE, group, away, np.random.default_rng(0)) is None
