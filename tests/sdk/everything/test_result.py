"""What is made of the objects: files that other programs read, and a picture."""

import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from pycocotools import mask as coco

from samsdk.errors import ImageError, OutputError
from samsdk.everything import EverythingResult, Instance
from samsdk.everything.labelling import labelled_instances
from samsdk.everything.result import distinct_colours
from samsdk.masks import Region
from samsdk.measuring.sizes import object_sizes

SIZE = (40, 50)


@pytest.fixture
def result() -> EverythingResult:
    labels = np.zeros(SIZE, np.int32)
    labels[3:9, 5:20] = 1
    labels[20:39, 30:50] = 2
    labels[24:30, 35:40] = 0
    whole = Region(SIZE, 0, 0, np.ones(SIZE, bool))
    instances = labelled_instances(labels, [(whole, 0.9, 0.8), (whole, 0.7, 0.6)])
    return EverythingResult(labels, instances, 7, {"encode": 1.0}, "cpu", "some bundle", (0.5, 0.5))


def test_the_png_holds_the_numbers_in_16_bits(result: EverythingResult, tmp_path: Path) -> None:
    result.save(tmp_path / "labels.png")
    read = cv2.imread(str(tmp_path / "labels.png"), cv2.IMREAD_UNCHANGED)
    assert read.dtype == np.uint16
    assert np.array_equal(read, result.label_map)


def test_the_npz_holds_the_label_map_and_a_row_an_object(result: EverythingResult, tmp_path: Path) -> None:
    result.save(tmp_path / "labels.npz")
    with np.load(tmp_path / "labels.npz") as read:
        assert np.array_equal(read["label_map"], result.label_map)
        assert read["boxes"].tolist() == [[5, 3, 20, 9], [30, 20, 50, 39]]
        assert read["areas"].tolist() == [90, 19 * 20 - 30]
        assert np.allclose(read["scores"], [0.9, 0.7])
        assert np.allclose(read["stability"], [0.8, 0.6])


def test_the_json_is_a_coco_file(result: EverythingResult, tmp_path: Path) -> None:
    result.save(tmp_path / "labels.json")
    read = json.loads((tmp_path / "labels.json").read_text())
    assert read["images"] == [{"id": 1, "height": 40, "width": 50}]
    for annotation in read["annotations"]:
        mask = coco.decode(annotation["segmentation"])
        assert np.array_equal(mask > 0, result.label_map == annotation["id"])
        assert annotation["area"] == coco.area(annotation["segmentation"])
        assert annotation["bbox"] == coco.toBbox(annotation["segmentation"]).tolist()
    assert [one["predicted_iou"] for one in read["annotations"]] == [0.9, 0.7]


@pytest.mark.parametrize("spacing", [None, (0.5, 0.25)])
def test_sizes_are_those_of_the_label_map_in_units_that_are_known(
    result: EverythingResult, spacing: tuple[float, float] | None
) -> None:
    known = replace(result, spacing=spacing)
    expected, sizes, told = object_sizes(known.label_map, spacing), known.sizes(), known.to_dict()
    assert (sizes.spacing, sizes.count) == (spacing, 2)
    for name in ("numbers", "areas_px2", "cut"):
        np.testing.assert_array_equal(getattr(sizes, name), getattr(expected, name))
    assert told["sizes"] == expected.to_dict()
    assert told["sizes"]["cut"] == 1  # the second one reaches the right border, none the lower one
    first, second = told["instances"]
    assert [one["area_px2"] for one in (first, second)] == [90, 350] == [first["area"], second["area"]]
    assert first["equivalent_diameter_px"] == pytest.approx(2 * (90 / np.pi) ** 0.5)
    names = {name for name in {**first, **told["sizes"]} if name.endswith(("mm", "mm2"))}
    assert names == ({"area_mm2", "equivalent_diameter_mm"} if spacing else set())
    if spacing:
        assert (first["area_mm2"], second["area_mm2"]) == (90 * 0.125, 350 * 0.125)
        assert second["equivalent_diameter_mm"] == pytest.approx(2 * (350 * 0.125 / np.pi) ** 0.5)
    json.dumps(told)


def test_no_object_has_no_size() -> None:
    told = EverythingResult(np.zeros(SIZE, np.int32), (), 3, {}, "cpu", "some bundle", (0.5, 0.5)).to_dict()
    assert (told["instances"], told["sizes"]["count"], told["sizes"]["area_mm2"]) == ([], 0, None)


def test_each_object_is_drawn_in_a_colour_of_its_own(result: EverythingResult) -> None:
    image = np.full(SIZE, 100, np.uint8)
    picture = result.overlay(image, opacity=0.5)
    assert np.array_equal(picture[result.label_map == 0], np.full(((result.label_map == 0).sum(), 3), 100))
    first, second = distinct_colours(2).astype(int)
    assert picture[5, 10].tolist() == np.rint(50 + first / 2).astype(int).tolist()
    assert picture[3, 5].tolist() == first.tolist()  # outlines cover
    assert picture[24, 34].tolist() == second.tolist()  # those of holes, too
    with pytest.raises(ImageError, match=r"\(40, 50\)"):
        result.overlay(image[1:])
    with pytest.raises(ValueError, match="opacity"):
        result.overlay(image, opacity=2)


def test_colours_of_many_objects_differ() -> None:
    colours = distinct_colours(60).astype(int)
    assert len({tuple(one) for one in colours.tolist()}) == 60
    assert np.abs(np.diff(colours, axis=0)).max(axis=1).min() > 100


def test_files_that_cannot_hold_it_are_refused(result: EverythingResult, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"ends in \.png, \.npz, \.json"):
        result.save(tmp_path / "labels.bmp")
    pixel = Region((1, 1), 0, 0, np.ones((1, 1), bool))
    many = tuple(Instance(number, pixel, 1.0, 1.0) for number in range(1, 2**16 + 1))
    with pytest.raises(OutputError, match="at most 65535"):
        EverythingResult(np.zeros((1, 1), np.int32), many, 0, {}, "cpu", "b").save(tmp_path / "labels.png")
    assert list(tmp_path.iterdir()) == []
