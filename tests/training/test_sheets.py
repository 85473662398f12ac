import numpy as np
import pytest
from skimage import data

from samsdk_training.sheets import contact_sheet

RED, BACKDROP = [255, 48, 48], [40, 40, 40]


def test_golden_pixels() -> None:
    image = np.full((6, 6), 100, np.uint8)
    mask = np.zeros((6, 6), bool)
    mask[1:5, 1:4] = True
    sheet = contact_sheet([image], [mask], columns=1, side=6, gap=1)
    rows = ["#######", "#......#", "#.rrr..#", "#.r.r..#", "#.r.r..#", "#.rrr..#", "#......#"]
    colours = {"#": BACKDROP, ".": [100, 100, 100], "r": RED}
    assert sheet.shape == (8, 8, 3)
    for y, row in enumerate(rows):
        for x, letter in enumerate(row):
            assert sheet[y, x].tolist() == colours[letter], (x, y)


def test_cells_follow_in_rows_and_images_are_kept() -> None:
    colour = np.ascontiguousarray(data.immunohistochemistry()[:20, :20])
    empty = np.zeros((20, 20), bool)
    sheet = contact_sheet([colour, colour[::-1], colour[:, ::-1]], [empty] * 3, columns=2, side=20, gap=2)
    assert sheet.shape == (46, 46, 3)
    assert np.array_equal(sheet[2:22, 2:22], colour)
    assert np.array_equal(sheet[2:22, 24:44], colour[::-1])
    assert np.array_equal(sheet[24:44, 2:22], colour[:, ::-1])
    assert (sheet[24:44, 24:44] == 40).all()


def test_narrow_images_keep_their_shape_and_a_single_pixel_is_seen() -> None:
    mask = np.zeros((40, 20), bool)
    mask[20, 10] = True
    sheet = contact_sheet([np.zeros((40, 20), np.uint8)], [mask], columns=1, side=20, gap=0, colour=(0, 255, 0))
    assert (sheet[:, 10:] == 40).all()
    assert np.argwhere(sheet[:, :10, 1] == 255).tolist() == [[10, 5]]


def test_wrong_calls_are_named() -> None:
    image, mask = np.zeros((4, 4), np.uint8), np.zeros((4, 5), bool)
    with pytest.raises(ValueError, match="at least one, got 0 and 0"):
        contact_sheet([], [])
    with pytest.raises(ValueError, match="got 1 and 2"):
        contact_sheet([image], [mask, mask])
    with pytest.raises(ValueError, match=r"mask 0 must be of its image's size \(4, 4\), got \(4, 5\)"):
        contact_sheet([image], [mask])
