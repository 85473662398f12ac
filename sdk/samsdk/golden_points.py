"""The golden self-test of a bundle that prompts itself: where the original model points in the golden images.

`golden.npz` holds what the decoder answers to those points; this is about how they are found.
"""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from samsdk.bundle import Bundle, open_arrays
from samsdk.embedding import Embedding
from samsdk.errors import BundleError
from samsdk.point_selection import PointSelection, select_points
from samsdk.prompts import BACKGROUND, FOREGROUND

GOLDEN_POINTS: Final = "golden_points.npz"
MOST_DIFFERENCE: Final = 1e-3
# A pixel whose probability is a threshold falls on either side by a rounding, which may make or unmake a component. Of
# background points, each is far from those before: one such pixel may move all that follow.
MOST_MOVED: Final = 0.1
# Of each map, as many rows and columns at most are kept.
_KEPT: Final = 64


@dataclass(frozen=True, eq=False)
class GoldenPoints:
    """What the original model says of one golden image.

    Attributes:
        probabilities: some of the map's rows and columns, see `thin`.
        points: [K, 2], (x, y) in pixels of the image.
        labels: [K].
    """

    probabilities: NDArray[np.float32]
    points: NDArray[np.float64]
    labels: NDArray[np.float32]


@dataclass(frozen=True)
class PointParity:
    """How far a backend's points are from the original model's, over all golden images.

    Attributes:
        passed: probabilities differ by 0.001 at most, and, of centroids, at most a tenth of those on objects moved. Of
            the most probable pixels, which come first is up to the last digit: their places are told, and not held.
        max_probability_difference: over what was kept of the maps.
        points: how many there are.
        moved: how many of them are not selected here, within a pixel of the map, or selected here alone.
        positives: how many points there are on objects.
        positives_moved: how many of those moved.
    """

    passed: bool
    max_probability_difference: float
    points: int
    moved: int
    positives: int
    positives_moved: int


def thin(probabilities: NDArray[np.float32]) -> NDArray[np.float32]:
    """The rows and columns of a map [S, S] that are kept and compared."""
    step = -(-len(probabilities) // _KEPT)
    return probabilities[::step, ::step]


def write_golden_points(golden: Sequence[GoldenPoints]) -> bytes:
    """The content of `golden_points.npz`."""
    arrays = {
        f"{name}_{index}": getattr(one, name)
        for index, one in enumerate(golden)
        for name in ("probabilities", "points", "labels")
    }
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, **arrays)
    return buffer.getvalue()


def read_golden_points(bundle: Bundle) -> list[GoldenPoints]:
    """What the original model says of each golden image.

    Raises:
        BundleError: the bundle does not hold it, or the file is damaged or holds no points or NaN.
    """
    with open_arrays(bundle, GOLDEN_POINTS) as archive:
        count = sum(name.startswith("points_") for name in archive.files)
        golden = [
            GoldenPoints(*(archive[f"{name}_{index}"] for name in ("probabilities", "points", "labels")))
            for index in range(count)
        ]
    if not golden or not all(np.isfinite(one.probabilities).all() for one in golden):
        raise BundleError(f"{GOLDEN_POINTS} in {bundle.path} proves nothing: it holds no image, or NaN")
    return golden


def measure_points(
    embeddings: Sequence[Embedding], golden: Sequence[GoldenPoints], selection: PointSelection
) -> PointParity:
    """Measure how far the points of a predictor are from the original model's.

    Args:
        embeddings: of the golden images, each with its map.
        golden: what the original model says of them.
        selection: the bundle's.

    Raises:
        BundleError: there are more or fewer images than points were kept of.
    """
    maps = [one.point_probabilities for one in embeddings if one.point_probabilities is not None]
    if len(maps) != len(golden):
        raise BundleError(f"{GOLDEN_POINTS} tells of {len(golden)} images, the bundle has {len(maps)}")
    differences, counts = [], np.zeros(4, dtype=np.intp)
    for embedding, probabilities, one in zip(embeddings, maps, golden, strict=True):
        differences.append(float(np.abs(thin(probabilities) - one.probabilities).max()))
        found, labels = select_points(probabilities, embedding.frame, selection)
        # A pixel of the map, in pixels of the image.
        tolerance = 1 / min(embedding.frame.scales)
        for place, kept in ((0, (BACKGROUND, FOREGROUND)), (2, (FOREGROUND,))):
            mine, theirs = np.isin(labels, kept), np.isin(one.labels, kept)
            pairs = (found[mine], labels[mine]), (one.points[theirs], one.labels[theirs])
            counts[place : place + 2] += len(one.points[theirs]), _moved(*pairs, tolerance)
    points, moved, positives, positives_moved = counts.tolist()
    held = selection.strategy == "centroid"
    passed = max(differences) <= MOST_DIFFERENCE and not (held and positives_moved > MOST_MOVED * positives)
    return PointParity(passed, max(differences), points, moved, positives, positives_moved)


_Labelled = tuple[NDArray[np.float64], NDArray[np.float32]]


def _moved(found: _Labelled, golden: _Labelled, tolerance: float) -> int:
    """How many points of either have none of the other's near them, the larger number of the two."""
    offsets = np.abs(found[0][:, None] - golden[0][None]).max(axis=2)
    near = (offsets <= tolerance) & (found[1][:, None] == golden[1][None])
    return int(max((~near.any(axis=0)).sum(), (~near.any(axis=1)).sum()))
