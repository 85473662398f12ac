"""The model in the package: what a user gets who installs samsdk and clicks."""

import json
import warnings
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

import samsdk
from samsdk import hub
from samsdk.masks import dice, mask_iou

GLAND = (250, 302, 384, 510)
INSIDE = (316, 400)


@pytest.fixture(scope="module")
def student() -> samsdk.Predictor:
    return samsdk.load(device="cpu")


@pytest.fixture(scope="module")
def held_back(shared_data: Path) -> list[tuple[NDArray[np.generic], NDArray[np.bool_], NDArray[np.bool_]]]:
    """Images of nuclei that taught nothing, each with two neighbours of like size, less than four pixels apart."""
    folder = shared_data / "nuclei_dsb2018"
    names = (folder / "list.txt").read_text().split()
    found = []
    for name in names[len(names) * 2 // 3 :]:
        label = cv2.imread(str(folder / "masks" / f"{name}.png"), cv2.IMREAD_UNCHANGED)
        pair = neighbours(label)
        if pair:
            found.append((cv2.imread(str(folder / "images" / f"{name}.png"))[..., ::-1], *pair))
    return found[:20]


def neighbours(label: NDArray[np.integer]) -> tuple[NDArray[np.bool_], NDArray[np.bool_]] | None:
    for number in np.unique(label)[1:]:
        one = label == number
        near = cv2.dilate(one.astype(np.uint8), np.ones((9, 9), np.uint8)) > 0
        for other in np.unique(label[near & ~one & (label > 0)]):
            two = label == other
            if min(one.sum(), two.sum()) > 120 and 0.5 < one.sum() / two.sum() < 2:
                return one, two
    return None


def middle(mask: NDArray[np.bool_]) -> tuple[float, float]:
    distance = cv2.distanceTransform(np.pad(mask.astype(np.uint8), 1), cv2.DIST_L2, 5)[1:-1, 1:-1]
    y, x = np.unravel_index(int(distance.argmax()), distance.shape)
    return float(x), float(y)


def test_it_is_certified_and_its_files_are_those_of_the_manifest() -> None:
    bundle = samsdk.Bundle.open(hub.resolve_bundle())
    assert bundle.manifest.name == "student"
    assert bundle.manifest.trained_kinds == ("points", "box", "mask")
    assert bundle.manifest.zoom is not None
    assert all(one["passed"] for tier in bundle.manifest.parity.values() for one in tier.values())
    assert bundle.manifest.licence["id"] == "Apache-2.0"


def test_its_card_says_what_it_was_trained_on_and_how_good_it_is() -> None:
    folder = hub.resolve_bundle()
    card = (folder / "MODEL_CARD.md").read_text(encoding="utf-8")
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    for name, row in manifest["accuracy"]["sets"].items():
        assert f"| {name} | {row['objects']} | {row['dice']['box']:.3f} |" in card
    assert "CC BY 4.0" in card
    assert "Where it fails" in card


def test_a_click_and_a_box_mean_the_same_gland(student: samsdk.Predictor, tissue: NDArray[np.uint8]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # it understands points: nothing to warn of
        clicked = student.segment(tissue, points=[INSIDE])
    boxed = student.segment(tissue, box=GLAND)
    x0, y0, x1, y1 = GLAND
    inside = boxed.mask[y0:y1, x0:x1].sum()
    assert 0.4 * (x1 - x0) * (y1 - y0) < inside
    assert inside > 0.9 * boxed.area
    assert mask_iou(clicked.mask, boxed.mask) > 0.7


def test_a_background_click_takes_a_neighbour_away(student: samsdk.Predictor, held_back: list) -> None:
    assert len(held_back) == 20
    both, one_of_both, other_of_both = [], [], []
    for image, one, two in held_back:
        points = [middle(one), middle(two)]
        together = student.segment(image, points=points)
        alone = student.segment(image, points=points, labels=[1, 0], mask=together)
        both.append(dice(together.mask, one | two))
        one_of_both.append(dice(alone.mask, one))
        other_of_both.append((alone.mask & two).sum() / two.sum())
    assert np.mean(both) > 0.7
    assert np.mean(one_of_both) > 0.65
    assert np.mean(other_of_both) < 0.2
