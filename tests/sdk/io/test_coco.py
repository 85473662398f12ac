import contextlib
import io
import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from pycocotools.coco import COCO

from samsdk.errors import ImageError, OutputError
from samsdk.io.coco import CocoImage, coco_document, write_coco
from samsdk.io.objects import ObjectMask, numbered_objects, object_masks
from samsdk.masks import Region
from samsdk.results import Result
from samsdk.semantic import SemanticResult
from samsdk.transforms import Frame


def whole(mask: np.ndarray) -> Region:
    return Region(mask.shape, 0, 0, mask)


def blobs(seed: int, side: int = 90) -> np.ndarray:
    """Many parts, holes, islands in holes, and what touches the image's border."""
    noise = np.random.default_rng(seed).random((side, side + 7), dtype=np.float32)
    smooth = cv2.GaussianBlur(noise, (0, 0), 1.5 + seed)
    return smooth > np.median(smooth)


def ring() -> np.ndarray:
    mask = np.zeros((40, 50), np.uint8)
    cv2.circle(mask, (25, 20), 15, 1, -1)
    cv2.circle(mask, (22, 18), 7, 0, -1)
    cv2.circle(mask, (22, 18), 3, 1, -1)
    return mask > 0


def corners() -> np.ndarray:
    """Pixels and holes that touch at corners only."""
    mask = np.indices((9, 8)).sum(axis=0) % 2 == 0
    mask[2:7, 1:6] = True
    mask[3, 2] = mask[4, 3] = mask[5, 4] = mask[6, 5] = False
    return mask


def read(path: Path) -> COCO:
    with contextlib.redirect_stdout(io.StringIO()):
        return COCO(str(path))


def result(mask: np.ndarray, score: float = 0.75) -> Result:
    frame = Frame(mask.shape, (64, 64), 64, (0, 0, mask.shape[1], mask.shape[0]))
    scores = np.array([score], np.float32)
    return Result((whole(mask),), scores, np.zeros((1, 4, 4), np.float32), frame, {}, {}, "CPU", "small@0123")


@pytest.mark.parametrize("polygons", [False, True])
@pytest.mark.parametrize("mask", [blobs(0), blobs(2), ring(), corners(), np.ones((1, 1), bool), ~ring()])
def test_pycocotools_reads_the_same_mask(tmp_path: Path, mask: np.ndarray, polygons: bool) -> None:
    # Stored over a part of a larger image, so that a wrong offset shows itself.
    region = Region((mask.shape[0] + 9, mask.shape[1] + 20), 5, 13, mask)
    write_coco(tmp_path / "a.json", [CocoImage(region.size, [ObjectMask(region)])], polygons=polygons)
    coco = read(tmp_path / "a.json")
    found = coco.annToMask(coco.anns[1])
    np.testing.assert_array_equal(found, region.full())
    assert coco.anns[1]["area"] == region.area == found.sum()
    x, y, width, height = coco.anns[1]["bbox"]
    assert (x, y, x + width, y + height) == region.box
    assert isinstance(coco.anns[1]["segmentation"], list) == polygons


def test_a_hole_is_cut_open_along_a_slit_of_no_width() -> None:
    mask = np.ones((5, 5), bool)
    mask[2, 2] = False
    (outline,) = coco_document([CocoImage((5, 5), [ObjectMask(whole(mask))])], polygons=True)["annotations"][0][
        "segmentation"
    ]
    points = np.array(outline).reshape(-1, 2)
    corners = {(0, 0), (5, 0), (5, 5), (0, 5), (2, 2), (3, 2), (3, 3), (2, 3)}
    assert set(map(tuple, points.tolist())) == corners
    # Both ends of the slit occur twice; the shoelace formula gives the area with the hole out.
    assert len(points) == len(corners) + 2
    x, y = points.T
    assert (x @ np.roll(y, -1) - y @ np.roll(x, -1)) / 2 == 24


def test_numbers_follow_the_order_in_which_images_and_objects_are_given(tmp_path: Path) -> None:
    mask = np.zeros((6, 8), bool)
    mask[1:3, 2:6] = True
    cell, gap = ObjectMask(whole(mask), "cell", 0.5, "small@0123"), ObjectMask(whole(~mask), "gap")
    images = [
        CocoImage((6, 8), [gap, ObjectMask(whole(mask & False), "cell")], "a.png", (0.5, 0.25)),
        CocoImage((3, 3), [], "b.png"),
        CocoImage((6, 8), [cell, gap]),
    ]
    write_coco(tmp_path / "a.json", images, categories=["cell", "gap", "other"])
    document = json.loads((tmp_path / "a.json").read_text())
    assert document["categories"] == [{"id": 1, "name": "cell"}, {"id": 2, "name": "gap"}, {"id": 3, "name": "other"}]
    assert document["images"] == [
        {"id": 1, "width": 8, "height": 6, "file_name": "a.png", "spacing_mm": [0.5, 0.25]},
        {"id": 2, "width": 3, "height": 3, "file_name": "b.png"},
        {"id": 3, "width": 8, "height": 6},
    ]
    numbers = [(one["id"], one["image_id"], one["category_id"]) for one in document["annotations"]]
    assert numbers == [(1, 1, 2), (2, 3, 1), (3, 3, 2)]
    assert (document["annotations"][1]["score"], document["annotations"][1]["model"]) == (0.5, "small@0123")
    assert {"score", "model"}.isdisjoint(document["annotations"][2])
    assert document == coco_document(images, categories=["cell", "gap", "other"])
    # Without a list, categories are numbered as they occur.
    assert [one["name"] for one in coco_document(images)["categories"]] == ["gap", "cell"]


def test_objects_of_results() -> None:
    mask = ring()
    one = replace(result(mask), spacing=(0.5, 0.5))
    (found,) = object_masks(one, "ring")
    assert (found.name, found.score, found.bundle, found.spacing, found.prompted) == (
        "ring",
        0.75,
        "small@0123",
        (0.5, 0.5),
        True,
    )
    assert object_masks(result(mask & False)) == []
    label_map = np.where(mask, 2, 0).astype(np.uint8)
    regions = (whole(mask & False), whole(mask))
    classes = SemanticResult(
        regions,
        np.zeros(0, np.float32),
        one.low_res_logits,
        one.frame,
        {"1": "a", "2": "b"},
        {},
        "CPU",
        "b@1",
        label_map,
    )
    (second,) = object_masks(classes)
    assert (second.name, second.score, second.prompted) == ("b", None, False)
    np.testing.assert_array_equal(second.region.full(), mask)


def test_objects_of_a_label_map_keep_their_order_and_their_pixels() -> None:
    label_map = np.zeros((30, 40), np.int32)
    label_map[2:9, 3:8], label_map[5:20, 20:39], label_map[25, 0] = 70_000, 3, 12
    found = numbered_objects(label_map, result(label_map > 0))
    for one, number in zip(found, (3, 12, 70_000), strict=True):
        np.testing.assert_array_equal(one.region.full(), label_map == number)
        assert one.score is None
    document = coco_document([CocoImage((30, 40), found)])
    assert [one["area"] for one in document["annotations"]] == [285, 1, 35]
    with pytest.raises(ImageError, match=r"expected a label map of \(30, 40\)"):
        numbered_objects(label_map[:5], result(label_map > 0))


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    one = ObjectMask(whole(ring()), "ring")
    with pytest.raises(ImageError, match=r"the image is \(40, 51\) \(H, W\), a mask of it \(40, 50\)"):
        CocoImage((40, 51), [one])
    with pytest.raises(OutputError, match=r"one of the categories a, b, once each; got \['ring'\]"):
        write_coco(tmp_path / "a.json", [CocoImage((40, 50), [one])], categories=["a", "b"])
    with pytest.raises(OutputError, match="once each"):
        coco_document([], categories=["a", "a"])
    assert list(tmp_path.iterdir()) == []
