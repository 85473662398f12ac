"""The sizes of a label map's objects, counted by hand and by scikit-image."""

import json
import math

import numpy as np
import pytest
from skimage.measure import regionprops

from samsdk.measuring import object_sizes


def test_sizes_by_hand() -> None:
    labels = np.zeros((8, 10), dtype=np.int32)
    labels[1:3, 1:3] = 7  # 4 pixels
    labels[4:7, 4:6] = 2  # 6 pixels
    labels[0, 8] = 3  # 1 pixel, at the border
    found = object_sizes(labels, (0.5, 2.0))
    assert found.count == 3
    assert found.numbers.tolist() == [2, 3, 7]
    assert found.areas_px2.tolist() == [6, 1, 4]
    assert found.cut.tolist() == [False, True, False]
    told = json.loads(json.dumps(found.to_dict()))
    assert (told["count"], told["cut"]) == (3, 1)
    assert told["area_px2"] == pytest.approx(
        {
            "mean": 11 / 3,
            "sd": math.sqrt(((6 - 11 / 3) ** 2 + (1 - 11 / 3) ** 2 + (4 - 11 / 3) ** 2) / 2),
            "median": 4,
            "smallest": 1,
            "largest": 6,
            # A tenth of the way from 1 to 4, and so on.
            "p5": 1.3,
            "p25": 2.5,
            "p75": 5,
            "p95": 5.8,
        }
    )
    assert told["area_mm2"]["largest"] == 6
    assert told["equivalent_diameter_mm"]["median"] == pytest.approx(math.sqrt(4 * 4 / math.pi))


def test_sizes_against_scikit_image() -> None:
    rng = np.random.default_rng(3)
    labels = np.kron(rng.integers(0, 12, (9, 8)), np.ones((5, 6), dtype=np.int64))
    found = object_sizes(labels)
    regions = regionprops(labels)
    assert found.numbers.tolist() == [one.label for one in regions]
    assert found.areas_px2.tolist() == [one.area for one in regions]
    diameters = found.values()["equivalent_diameter_px"]
    np.testing.assert_allclose(diameters, [one.equivalent_diameter_area for one in regions])
    height, width = labels.shape
    touching = [b[0] == 0 or b[1] == 0 or b[2] == height or b[3] == width for b in (one.bbox for one in regions)]
    assert found.cut.tolist() == touching


def test_without_spacing_there_are_no_millimetres_and_without_objects_no_sizes() -> None:
    told = object_sizes(np.zeros((4, 4), dtype=np.uint16)).to_dict()
    assert told == {"count": 0, "cut": 0, "area_px2": None, "equivalent_diameter_px": None}


def test_one_object_has_no_spread() -> None:
    [told] = [object_sizes(np.pad(np.ones((3, 3), dtype=np.int32), 2)).to_dict()["area_px2"]]
    assert (told["sd"], told["p5"], told["p95"]) == (0, 9, 9)


@pytest.mark.parametrize("labels", [np.zeros((3, 3)), np.zeros((2, 3, 3), dtype=np.int32)])
def test_a_wrong_label_map_is_refused(labels: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"expected integers \[H, W\]"):
        object_sizes(labels)


def test_negative_numbers_are_refused() -> None:
    with pytest.raises(ValueError, match="expected numbers from 0 on, got -1"):
        object_sizes(np.full((2, 2), -1))
