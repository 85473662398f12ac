"""Tiles: together they show everything, and an object that fits is whole in the tile that is asked for it."""

import numpy as np
import pytest

from samsdk.everything.tiles import Tiling, layer_sides

SIZES = [(256, 256, 128), (250, 333, 96), (100, 40, 64), (700, 90, 120), (61, 60, 61)]


def test_layers_end_where_a_tile_shows_nothing_new() -> None:
    assert layer_sides((256, 200), 256, None) == [256, 128]
    assert layer_sides((1024, 1024), 256, None) == [1024, 512, 256, 128]
    assert layer_sides((1024, 1024), 256, 1) == [1024, 512]
    assert layer_sides((30, 20), 256, None) == [30]
    assert layer_sides((20000, 15000), 256, None)[-1] == 157


@pytest.mark.parametrize(("height", "width", "side"), SIZES)
def test_each_place_is_farthest_from_a_cut_border_in_its_own_tile(height: int, width: int, side: int) -> None:
    tiling = Tiling((height, width), side)
    windows = [
        (int(x), int(y), min(int(x) + side, width), min(int(y) + side, height))
        for y in tiling.starts(height)
        for x in tiling.starts(width)
    ]
    places = np.stack(np.meshgrid(np.arange(width), np.arange(height)), axis=-1).reshape(-1, 2).astype(float)[::7]

    def depth(window: tuple[int, int, int, int]) -> np.ndarray:
        x0, y0, x1, y1 = window
        ways = [(places[:, 0] - x0, x0 > 0), (places[:, 1] - y0, y0 > 0)]
        ways += [(x1 - 1 - places[:, 0], x1 < width), (y1 - 1 - places[:, 1], y1 < height)]
        return np.min([np.where(cut, way, 10.0**6) for way, cut in ways], axis=0)

    best = np.max([depth(window) for window in windows], axis=0)
    given = np.concatenate([members for _, members in tiling.tiles(places)])
    assert sorted(given.tolist()) == list(range(len(places)))
    for window, members in tiling.tiles(places):
        assert window in windows
        assert np.array_equal(depth(window)[members], best[members])
        # A square of half a tile around the place, as far as the image goes, is in it: no object of that size is cut.
        assert depth(window)[members].min() >= side // 4 - 1


def test_one_tile_that_covers_everything_is_the_image() -> None:
    assert Tiling((40, 60), 60).tiles(np.array([[3.0, 4.0], [59.0, 39.0]]))[0][0] == (0, 0, 60, 40)
    assert Tiling((40, 60), 60).tiles(np.zeros((0, 2))) == []
