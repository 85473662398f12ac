"""Dimensions against figures whose dimensions are known, and against scikit-image.

Figures are drawn as an image would show them: a pixel is inside if its middle is.
"""

import json
import math
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.ndimage import binary_fill_holes
from scipy.spatial.distance import pdist
from scipy.special import ellipe
from skimage.measure import find_contours, label, perimeter_crofton, regionprops

from samsdk.masks import Region
from samsdk.measuring import measure
from samsdk.measuring.ellipse import ellipse_circumference
from samsdk.measuring.shapes import border_points, convex_hull, longest_diameter, perimeter, shortest_diameter

Spacing = tuple[float, float]
SQUARE = (1.0, 1.0)
SPACINGS = [SQUARE, (0.25, 0.25), (0.5, 1.0), (1.0, 0.2), (0.3, 0.9)]


def ellipse(
    axes: tuple[float, float],
    degrees: float = 0.0,
    *,
    spacing: Spacing = SQUARE,
    size: tuple[int, int] = (160, 180),
    shift: tuple[float, float] = (0.0, 0.0),
) -> NDArray[np.bool_]:
    """An ellipse of full axes, turned from x towards y, `shift` off the image's middle; all in the spacing's unit."""
    along, across = turned(degrees, size, spacing, shift)
    return np.asarray((2 * along / axes[0]) ** 2 + (2 * across / axes[1]) ** 2 <= 1)


def rectangle(sides: tuple[float, float], degrees: float) -> NDArray[np.bool_]:
    along, across = turned(degrees, (160, 180), SQUARE, (0.137, -0.211))
    return np.asarray((abs(2 * along) <= sides[0]) & (abs(2 * across) <= sides[1]))


def turned(
    degrees: float, size: tuple[int, int], spacing: Spacing, shift: tuple[float, float]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    rows, columns = np.indices(size)
    x = (columns + 0.5 - size[1] / 2) * spacing[0] - shift[0]
    y = (rows + 0.5 - size[0] / 2) * spacing[1] - shift[1]
    cosine, sine = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return x * cosine + y * sine, y * cosine - x * sine


def circumference(axes: tuple[float, float]) -> float:
    major, minor = max(axes), min(axes)
    return float(2 * major * ellipe(1 - (minor / major) ** 2))


@pytest.mark.parametrize("ratio", [1.0, 0.999, 0.8, 0.5, 0.1, 1e-3, 1e-8, 0.0])
def test_the_circumference_of_an_ellipse_is_the_elliptic_integral(ratio: float) -> None:
    assert ellipse_circumference(14.0, 14.0 * ratio) == pytest.approx(circumference((14.0, 14.0 * ratio)), rel=1e-9)


@pytest.mark.parametrize(("radius", "slack"), [(5.0, 0.06), (10.0, 0.025), (30.0, 0.01), (75.0, 0.003)])
@pytest.mark.parametrize("shift", [(0.0, 0.0), (0.5, 0.5), (0.31, -0.17)])
def test_a_disc(radius: float, slack: float, shift: tuple[float, float]) -> None:
    found = measure(ellipse((2 * radius, 2 * radius), shift=shift)).px
    # How many pixels' middles are inside is itself a little off.
    assert found.area == pytest.approx(math.pi * radius**2, rel=slack)
    assert found.perimeter == pytest.approx(2 * math.pi * radius, rel=slack)
    assert found.equivalent_diameter == pytest.approx(2 * radius, rel=slack)
    assert found.ellipse.circumference == pytest.approx(2 * math.pi * radius, rel=slack)
    assert found.ellipse.centre == pytest.approx((90 + shift[0], 80 + shift[1]), abs=0.1)
    # The widest and the narrowest of many directions: up to a pixel off.
    assert -0.2 <= found.longest.length - 2 * radius <= 1.0
    assert abs(found.shortest.length - 2 * radius) <= 1.0


@pytest.mark.parametrize("degrees", [0, 17, 45, 90, 118, 163])
@pytest.mark.parametrize("axes", [(120, 70), (90, 30), (60, 48)])
def test_a_turned_ellipse(axes: tuple[int, int], degrees: float) -> None:
    found = measure(ellipse(axes, degrees)).px
    assert found.area == pytest.approx(math.pi * axes[0] * axes[1] / 4, rel=0.01)
    assert found.perimeter == pytest.approx(circumference(axes), rel=0.015)
    assert (found.ellipse.major, found.ellipse.minor) == pytest.approx(axes, abs=0.25)
    assert found.ellipse.circumference == pytest.approx(circumference(axes), rel=0.004)
    assert found.ellipse.area == pytest.approx(found.area, rel=0.004)
    assert turn(found.ellipse.angle, degrees) < 0.5
    assert found.longest.length == pytest.approx(axes[0], abs=1.0)
    assert found.shortest.length == pytest.approx(axes[1], abs=1.0)
    # A long ellipse's ends lie on its axes.
    if axes[0] > 1.5 * axes[1]:
        (x0, y0), (x1, y1) = found.longest.start, found.longest.end
        assert turn(math.degrees(math.atan2(y1 - y0, x1 - x0)), degrees) < 6


def turn(one: float, other: float) -> float:
    """Angle between two lines, in degrees."""
    return abs((one - other + 90) % 180 - 90)


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("degrees", [0, 30, 77, 135])
def test_geometry_is_done_in_millimetres(spacing: Spacing, degrees: float) -> None:
    unit = max(spacing)
    axes = (52 * unit, 30 * unit)
    size = (round(70 * unit / spacing[1]), round(70 * unit / spacing[0]))
    mask = ellipse(axes, degrees, spacing=spacing, size=size)
    found = measure(mask, spacing).mm
    assert found.area == pytest.approx(np.count_nonzero(mask) * spacing[0] * spacing[1])
    # Coarse pixels of 5 to 1 are the worst.
    assert found.perimeter == pytest.approx(circumference(axes), rel=0.04)
    assert (found.ellipse.major, found.ellipse.minor) == pytest.approx(axes, abs=0.3 * unit)
    assert turn(found.ellipse.angle, degrees) < 0.5
    assert found.ellipse.centre == pytest.approx((size[1] * spacing[0] / 2, size[0] * spacing[1] / 2), abs=0.1 * unit)
    assert found.longest.length == pytest.approx(axes[0], abs=unit)
    assert found.shortest.length == pytest.approx(axes[1], abs=unit)


def test_a_circle_on_flat_pixels_is_no_circle_in_pixels() -> None:
    found = measure(ellipse((50, 50), spacing=(0.5, 1.0)), (0.5, 1.0))
    assert (found.mm.ellipse.major, found.mm.ellipse.minor) == pytest.approx((50, 50), abs=0.3)
    assert (found.px.ellipse.major, found.px.ellipse.minor) == pytest.approx((100, 50), abs=0.3)
    assert found.px.ellipse.angle == pytest.approx(0, abs=0.5) or found.px.ellipse.angle == pytest.approx(180, abs=0.5)


@pytest.mark.parametrize("degrees", [0, 10, 22.5, 30, 45, 80])
@pytest.mark.parametrize("sides", [(100, 60), (60, 30)])
def test_a_rectangle(sides: tuple[int, int], degrees: float) -> None:
    found = measure(rectangle(sides, degrees)).px
    assert found.area == pytest.approx(sides[0] * sides[1], rel=0.03)
    assert found.perimeter == pytest.approx(2 * sum(sides), rel=0.027)
    assert found.longest.length == pytest.approx(math.hypot(*sides), abs=1.3)
    assert found.shortest.length == pytest.approx(sides[1], abs=1.0)


def test_an_upright_rectangle_to_the_pixel() -> None:
    mask = np.zeros((40, 50), dtype=np.bool_)
    mask[10:22, 5:40] = True
    found = measure(mask, (2.0, 3.0))
    assert found.px.area == 35 * 12
    assert found.mm.area == 35 * 12 * 6
    assert found.px.shortest.length == 12
    assert found.mm.shortest.length == 36
    assert sorted([found.px.shortest.start[1], found.px.shortest.end[1]]) == [10, 22]
    # From the middle of a side's first pixel border to that of the opposite side's last.
    assert found.px.longest.length == pytest.approx(math.hypot(35, 11))
    assert found.px.ellipse.centre == (22.5, 16)
    # Of a rectangle: its sides times 2 / sqrt(3).
    assert (found.px.ellipse.major, found.px.ellipse.minor) == pytest.approx((35 * 2 / 3**0.5, 12 * 2 / 3**0.5))
    assert found.mm.ellipse.centre == (45, 48)


def test_the_diameters_end_where_they_say() -> None:
    spacing = (0.4, 0.7)
    found = measure(ellipse((40, 22), 30, spacing=spacing), spacing).mm
    for diameter in (found.longest, found.shortest):
        assert math.dist(diameter.start, diameter.end) == pytest.approx(diameter.length)


def blobs(seed: int) -> NDArray[np.bool_]:
    """Ragged parts, with bays and holes."""
    rng = np.random.default_rng(seed)
    coarse = rng.normal(size=(9, 11))
    return np.asarray(np.kron(coarse, np.ones((7, 6))) + rng.normal(size=(63, 66)) * 0.3 > 0.4)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("spacing", [SQUARE, (0.3, 0.9)])
def test_diameters_against_all_points_and_all_directions(seed: int, spacing: Spacing) -> None:
    points = border_points(blobs(seed))
    hull = convex_hull(points, spacing)
    places = points * np.array(spacing) / 2
    apart = np.sqrt(np.square(places[:, None] - places).sum(axis=2))
    assert longest_diameter(hull).length == pytest.approx(apart.max(), rel=1e-12)
    # Between two of the directions a width changes by the longest diameter times their angle, at most.
    angles = np.linspace(0, np.pi, 3600, endpoint=False)
    widths = np.ptp(places @ np.stack([np.cos(angles), np.sin(angles)]), axis=0)
    found = shortest_diameter(hull).length
    assert widths.min() - apart.max() * np.pi / 3600 <= found <= widths.min() + 1e-9


@pytest.mark.parametrize("seed", range(3))
def test_the_shortest_diameter_is_a_width(seed: int) -> None:
    """No narrower than the mask really is in the diameter's own direction."""
    places = border_points(blobs(seed)) / 2
    found = shortest_diameter(convex_hull(border_points(blobs(seed)), SQUARE))
    direction = (np.array(found.end) - found.start) / found.length
    assert np.ptp(places @ direction) == pytest.approx(found.length)


@pytest.mark.parametrize("mask", [ellipse((90, 88), 0), ellipse((120, 70), 17), rectangle((60, 30), 30)])
def test_the_perimeter_against_scikit_image(mask: NDArray[np.bool_]) -> None:
    # Four directions there, eight here.
    assert measure(mask).px.perimeter == pytest.approx(perimeter_crofton(mask, directions=4), rel=0.03)


@pytest.mark.parametrize("mask", [blobs(1), ellipse((120, 70), 17), rectangle((60, 30), 30)])
def test_against_scikit_image(mask: NDArray[np.bool_]) -> None:
    found = measure(mask).px
    [whole] = regionprops(mask.astype(np.uint8))
    assert found.area == whole.area
    assert found.equivalent_diameter == pytest.approx(whole.equivalent_diameter_area)
    # There, of the convex hull's pixels, which may be a little more than the mask.
    assert found.longest.length == pytest.approx(whole.feret_diameter_max, abs=1.0)
    outline = np.concatenate(find_contours(np.pad(mask, 1).astype(float), 0.5))
    assert found.longest.length == pytest.approx(pdist(outline).max(), rel=1e-12)
    parts = label(mask, connectivity=2)
    largest = max(regionprops(parts), key=lambda one: one.area)
    [solid] = regionprops(binary_fill_holes(largest.image).astype(np.uint8))
    # There, a pixel is a point without a second moment of its own.
    axes = math.sqrt(solid.axis_major_length**2 + 16 / 12), math.sqrt(solid.axis_minor_length**2 + 16 / 12)
    assert (found.ellipse.major, found.ellipse.minor) == pytest.approx(axes, rel=1e-9)


def test_the_perimeter_against_scikit_image_with_its_directions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("samsdk.measuring.shapes._STEPS", ((1, 0), (0, 1), (1, 1), (-1, 1)))
    for seed in range(3):
        assert perimeter(blobs(seed), SQUARE) == pytest.approx(perimeter_crofton(blobs(seed), directions=4), rel=1e-12)


def test_holes_and_parts() -> None:
    solid = ellipse((80, 80))
    ring = solid & ~ellipse((40, 40))
    spots = ring.copy()
    spots[2:8, 3:10] = True
    found = measure(spots)
    assert (found.parts, found.holes) == (2, 1)
    assert found.px.area == np.count_nonzero(spots)
    assert measure(ring).px.perimeter == pytest.approx(math.pi * 120, rel=0.01)
    # The ellipse is of the largest part and knows no hole.
    assert found.px.ellipse == measure(solid).px.ellipse
    assert found.px.longest.length > measure(ring).px.longest.length
    # A corner connects what is inside, and so does not let the outside in.
    diamond = np.array([[0, 1, 0], [1, 0, 1], [0, 1, 0]], dtype=np.bool_)
    assert (measure(diamond).parts, measure(diamond).holes) == (1, 1)


def test_a_region_is_measured_where_it_lies() -> None:
    mask = ellipse((40, 22), 30, shift=(31, -12))
    whole = measure(mask, (0.5, 0.25))
    cut = Region((160, 180), 20, 70, np.ascontiguousarray(mask[20:130, 70:175]))
    assert measure(cut, (0.5, 0.25)) == whole


def test_an_empty_mask_and_a_single_pixel() -> None:
    empty = measure(np.zeros((5, 7), dtype=np.bool_), (0.5, 0.5))
    assert empty.values() == {
        f"{name}_{unit}{square}": 0.0
        for unit in ("px", "mm")
        for name, square in (("area", "2"), ("perimeter", ""), ("equivalent_diameter", ""))
    }
    assert (empty.parts, empty.holes, empty.mm.ellipse, empty.mm.longest) == (0, 0, None, None)
    dot = np.zeros((5, 7), dtype=np.bool_)
    dot[4, 6] = True
    found = measure(dot, (0.5, 0.5))
    assert (found.px.area, found.mm.area, found.px.longest.length) == (1, 0.25, 1)
    assert found.px.ellipse.centre == (6.5, 4.5)
    assert measure(np.ones((3, 4), dtype=np.bool_)).holes == 0


def test_names_hold_the_unit_and_json_holds_all() -> None:
    mask = ellipse((40, 22), 30)
    told: dict[str, Any] = json.loads(json.dumps(measure(mask, (0.5, 0.5)).to_dict()))
    assert told["mm"]["area_mm2"] == pytest.approx(told["px"]["area_px2"] / 4)
    assert told["mm"]["ellipse_circumference_mm"] == pytest.approx(told["px"]["ellipse_circumference_px"] / 2)
    assert math.dist(*told["mm"]["longest_diameter_ends_mm"]) == pytest.approx(told["mm"]["longest_diameter_mm"])
    assert told["stability"] is None
    alone = measure(mask)
    assert alone.to_dict()["mm"] is None
    assert not any("mm" in name for name in alone.values())
    assert all(name.split("_")[-1] in ("px", "px2", "mm", "mm2") for name in measure(mask, (0.5, 0.5)).values())


@pytest.mark.parametrize("spacing", [(1.0,), (1.0, 0.0), (1.0, -1.0), (1.0, float("nan")), (1.0, 2.0, 3.0), 0.5])
def test_a_wrong_spacing_is_refused(spacing: Any) -> None:
    with pytest.raises(ValueError, match=r"spacing must be two positive lengths in mm, \(x, y\), got"):
        measure(np.ones((3, 3), dtype=np.bool_), spacing)


@pytest.mark.parametrize("mask", [np.ones((3, 3)), np.ones((2, 3, 3), dtype=np.bool_)])
def test_a_wrong_mask_is_refused(mask: Any) -> None:
    with pytest.raises(ValueError, match=r"expected a bool mask \[H, W\]"):
        measure(mask)
