"""The way from an image to all of its objects: layers of tiles, points in batches, filters, one label map."""

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

from samsdk.answers import MOST_PROMPTS
from samsdk.auto import AutoResult
from samsdk.errors import PromptError
from samsdk.everything.filtering import cleaned, stability_scores, suppress_boxes
from samsdk.everything.labelling import labelled_instances, numbered_regions, resolve_overlaps
from samsdk.everything.points import grid_points, salient_points
from samsdk.everything.result import EverythingResult
from samsdk.everything.settings import EverythingSettings
from samsdk.everything.tiles import Tiling, layer_sides
from samsdk.intensity import to_uint8
from samsdk.io.images import as_scan
from samsdk.io.scans import Scan
from samsdk.masks import Region
from samsdk.predictor import Predictor
from samsdk.prompts import Prompt
from samsdk.results import Result
from samsdk.transforms import Frame, Window
from samsdk.zoom import touches_border

# A spot is first asked for in the layer that shows it with a diameter nearest to so many pixels of the network.
_SEEN: Final = 30.0


def segment_everything(
    predictor: Predictor,
    image: object,
    settings: EverythingSettings = EverythingSettings(),  # noqa: B008 (frozen)
) -> EverythingResult:
    """Segment all objects of an image without a click.

    A bundle that prompts itself is asked once, and its mask is split as it says; any other is asked point by point.
    Memory grows with the image and the objects in it: of an answer nothing but its mask within its box is kept.

    Args:
        predictor: of a bundle that takes points.
        image: see `Predictor.encode`.
        settings: how; for bundles that prompt themselves `min_mask_region_area` and `stability_score_offset` alone.

    Raises:
        PromptError: the bundle takes no points, or has no masks for ambiguous prompts though they are asked for.
        ImageError, BackendError: as `Predictor.encode` and `Predictor.decode`.
        BundleError: it prompts itself, but does not say how its mask is split into objects.
    """
    start = time.perf_counter()
    if "points" not in predictor.manifest.prompt_kinds:
        raise PromptError("everything mode points at what there is, and this bundle takes no points; use another one")
    scan = as_scan(image)
    if predictor.manifest.auto is not None:
        return _answered_alone(predictor, scan, settings, start)
    finder = _Finder(predictor, scan, settings)
    found = sorted(finder.candidates(), key=lambda one: -one.rank)
    regions = [one.region for one in found]
    labels, chosen = resolve_overlaps(regions, finder.size, settings.overlap_thresh, settings.min_mask_region_area)
    kept = [found[index] for index in chosen]
    return EverythingResult(
        labels,
        labelled_instances(labels, [(one.region, one.score, one.stability) for one in kept]),
        finder.asked,
        {**finder.timings, "total": (time.perf_counter() - start) * 1e3},
        predictor.provider,
        predictor.bundle.identity,
        scan.spacing,
        scan.source,
    )


@dataclass(frozen=True, eq=False)
class _Candidate:
    """A mask that may be an object."""

    region: Region
    score: float
    stability: float

    @property
    def rank(self) -> float:
        """Which of two masks of one place is better."""
        return self.score * self.stability

    @property
    def box(self) -> tuple[int, int, int, int]:
        """The box of the region, which is tight."""
        height, width = self.region.inside.shape
        left, top = self.region.left, self.region.top
        return left, top, left + width, top + height


@dataclass(eq=False)
class _Finder:
    """Asks for all points of an image, and counts what that took."""

    predictor: Predictor
    scan: Scan
    settings: EverythingSettings
    asked: int = 0
    timings: dict[str, float] = field(default_factory=lambda: {"encode": 0.0, "decode": 0.0})

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the image."""
        height, width = self.scan.pixels.shape[:2]
        return height, width

    def candidates(self) -> Iterator[_Candidate]:
        """The masks of all layers that pass the filters, tile by tile."""
        preprocessing, per_side = self.predictor.manifest.preprocessing, self.settings.points_per_side
        sides = layer_sides(self.size, preprocessing.input_size, self.settings.crop_n_layers)
        if per_side is None:
            spots = salient_points(to_uint8(self.scan.pixels, preprocessing.intensity), self.settings.contrast)
            seen = 2 * spots.radii * preprocessing.input_size / np.array(sides)[:, None]
            nearest = np.abs(np.log(seen / _SEEN)).argmin(axis=0)
            layers = [spots.part(nearest == layer) for layer in range(len(sides))]
        else:
            layers = [grid_points(self.size, per_side * 2**layer) for layer in range(len(sides))]
        left: list[NDArray[np.float64]] = []
        for side, points in reversed(list(zip(sides, layers, strict=True))):
            # Where a tile shows no whole object, a larger one may; a grid asks everywhere anyway.
            places = points.places if per_side else np.concatenate([points.places, *left])
            left = []
            for window, members in Tiling(self.size, side).tiles(places):
                found, again = self._of_tile(window, places[members])
                yield from found
                left.append(again)

    def _of_tile(self, window: Window, places: NDArray[np.float64]) -> tuple[list[_Candidate], NDArray[np.float64]]:
        """What is found at some places of a tile, and the places where no answer is an object that it shows whole."""
        x0, y0, x1, y1 = window
        pixels = self.scan.pixels[y0:y1, x0:x1]
        # Nothing is to be seen there, whatever the model makes of it.
        if pixels.min() == pixels.max():
            return [], places[:0]
        embedding = self.predictor.encode(self.scan, window=window)
        self.timings["encode"] += sum(embedding.timings.values())
        found: list[_Candidate] = []
        unanswered = np.ones(len(places), dtype=np.bool_)
        for start in range(0, len(places), MOST_PROMPTS):
            prompts = [Prompt(points=[place]) for place in places[start : start + MOST_PROMPTS]]
            results = self.predictor.decode_batch(embedding, prompts, multimask=self.settings.multimask)
            self.asked += len(prompts)
            for index, result in enumerate(results, start=start):
                self.timings["decode"] += result.timings["decode"] + result.timings["postprocess"]
                whole = [one for one in self._believed(result, embedding.frame) if self._is_whole(one, window)]
                found += whole
                unanswered[index] = not whole
        boxes, ranks = np.array([one.box for one in found]).reshape(-1, 4), np.array([one.rank for one in found])
        best = suppress_boxes(boxes, ranks, self.settings.box_nms_thresh)
        return [found[index] for index in best], places[unanswered]

    def _is_whole(self, one: _Candidate, window: Window) -> bool:
        """Whether a mask is an object that its tile shows whole, and not what objects lie on."""
        x0, y0, x1, y1 = window
        small = one.region.area <= self.settings.largest * (x1 - x0) * (y1 - y0)
        return small and not touches_border(one.box, window, self.size)

    def _believed(self, result: Result, frame: Frame) -> Iterator[_Candidate]:
        """The masks of one answer that pass the tests of a mask by itself, the cheap ones first."""
        settings, threshold = self.settings, self.predictor.mask_threshold
        stability = stability_scores(result.low_res_logits, frame, threshold, settings.stability_score_offset)
        for region, score, stable in zip(result.regions, result.scores.tolist(), stability.tolist(), strict=True):
            if score < settings.pred_iou_thresh or stable < settings.stability_score_thresh:
                continue
            clean = cleaned(region, settings.min_mask_region_area)
            if clean is not None:
                yield _Candidate(clean, score, stable)


def _answered_alone(predictor: Predictor, scan: Scan, settings: EverythingSettings, start: float) -> EverythingResult:
    """The objects of a bundle that prompts itself: one mask for all of them, split as the bundle says."""
    result = predictor.segment(scan)
    assert isinstance(result, AutoResult)
    offset = settings.stability_score_offset
    stability = stability_scores(result.low_res_logits, result.frame, predictor.mask_threshold, offset)[result.best]
    numbers = result.instances()
    regions = numbered_regions(numbers)
    height, width = numbers.shape
    labels, chosen = resolve_overlaps(regions, (height, width), 1.0, settings.min_mask_region_area)
    timings = {
        "encode": result.timings["preprocess"] + result.timings["encode"],
        "decode": result.timings["decode"] + result.timings["postprocess"],
        "total": (time.perf_counter() - start) * 1e3,
    }
    return EverythingResult(
        labels,
        labelled_instances(labels, [(regions[index], result.score, float(stability)) for index in chosen]),
        len(result.points),
        timings,
        result.provider,
        result.bundle,
        result.spacing,
        result.source,
    )
