import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from samsdk_training.proposals import ProposalConfig, box_iou, propose_boxes

DISCS = [(60, 50, 22), (180, 60, 30), (70, 170, 16), (190, 180, 24)]  # x, y, radius
BOXES = [(x - r, y - r, x + r + 1, y + r + 1) for x, y, r in DISCS]


def picture(ground: object, discs: object) -> NDArray[np.uint8]:
    colours = np.atleast_1d(np.array(ground))
    image = np.full((240, 250, len(colours)), colours, dtype=np.uint8)
    for x, y, radius in DISCS:
        cv2.circle(image, (x, y), radius, np.atleast_1d(np.array(discs)).tolist(), -1)
    noisy = image + np.random.default_rng(0).normal(0, 4, image.shape)
    return np.clip(noisy, 0, 255).astype(np.uint8).squeeze()


@pytest.mark.parametrize(
    ("ground", "discs"),
    [(40, 160), (190, 70), ((120, 120, 120), (180, 100, 120))],
    ids=["bright", "dark", "only the colour differs"],
)
def test_each_disc_gets_a_box(ground: object, discs: object) -> None:
    boxes = propose_boxes(picture(ground, discs), ProposalConfig(), np.random.default_rng(1))
    for truth in BOXES:
        assert max(box_iou(truth, tuple(box)) for box in boxes.tolist()) > 0.7


def test_the_limits_hold() -> None:
    config = ProposalConfig(most=9, smallest=0.01, largest=0.2, aspect=1.5, overlap=0.3)
    image = np.random.default_rng(2).integers(0, 255, (60, 80, 3)).astype(np.uint8)
    image = np.asarray(cv2.resize(image, (320, 240), interpolation=cv2.INTER_CUBIC), dtype=np.uint8)
    boxes = propose_boxes(image, config, np.random.default_rng(0))
    assert boxes.dtype == np.float32
    assert 4 < len(boxes) <= 9
    assert (boxes[:, :2] >= 0).all()
    assert (boxes[:, 2:] <= [320, 240]).all()
    sides = boxes[:, 2:] - boxes[:, :2]
    assert (sides.max(axis=1) <= 1.5 * sides.min(axis=1) + 1e-3).all()
    areas = sides.prod(axis=1) / (320 * 240)
    assert (areas >= 0.0099).all()
    assert (areas <= 0.2001).all()
    pairs = [(a, b) for i, a in enumerate(boxes.tolist()) for b in boxes.tolist()[:i]]
    assert max(box_iou(tuple(a), tuple(b)) for a, b in pairs) <= 0.301


def test_the_same_generator_gives_the_same_boxes() -> None:
    image = picture(40, 160)
    first, second, other = (propose_boxes(image, ProposalConfig(), np.random.default_rng(seed)) for seed in (3, 3, 4))
    assert np.array_equal(first, second)
    assert not np.array_equal(first, other)


def test_an_empty_image_has_only_the_grid() -> None:
    boxes = propose_boxes(np.full((90, 120), 7, dtype=np.uint8), ProposalConfig(margin=0), np.random.default_rng(0))
    shares = (boxes[:, 2] - boxes[:, 0]) / 120
    assert len(boxes) > 0
    assert all(min(abs(share - 0.3), abs(share - 0.55)) < 1e-3 for share in shares)


@pytest.mark.parametrize("image", [np.zeros((9, 9), np.float32), np.zeros((9, 9, 4), np.uint8)])
def test_other_images_are_refused(image: NDArray[np.uint8]) -> None:
    with pytest.raises(ValueError, match="expected an image"):
        propose_boxes(image, ProposalConfig(), np.random.default_rng(0))


def test_box_iou() -> None:
    assert box_iou((0, 0, 4, 4), (2, 0, 6, 4)) == pytest.approx(1 / 3)
    assert box_iou((0, 0, 1, 1), (1, 1, 2, 2)) == 0
