"""Head circumference from one box or three points, in mm, beside the circumference that the annotators measured.

    python benchmarks/head_circumference.py --data FOLDER [--overlays FOLDER]

FOLDER holds `us_hc18`. How a circumference is taken from an answer is chosen for each kind of prompt on the images that
taught the default model (the first two thirds of the list, without examinations of the last third), and reported for
the last third. The set's masks are filled along the outer side of a drawn line: their own circumference is more than
that of the table by a constant number of pixels, which is reported as `line_px`.

Ways that use the box's own sides are reported apart (`from_the_box`), not chosen: ellipses that touch the sides of a
box have nearly one circumference, however they are turned, so that a tight box, which was made of the reference, holds
the answer without any image (`box_alone`). `drawn_box` is as people draw it. The JSON goes to benchmarks/results/.
"""

import argparse
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

import samsdk
from head_answers import HELD_BACK, JITTER, TAUGHT, Answer, Head, read_heads
from results import write_result
from samsdk.masks import Region, mask_iou
from samsdk.measuring import measure
from samsdk.measuring.ellipse import ellipse_circumference
from samsdk.measuring.shapes import border_points

SET = "us_hc18"
WORST = 3


def by_moments(answer: Answer) -> float:
    """What `samsdk.measuring` says: the ellipse of the same second moments."""
    return ellipse_of(answer.mask)


def by_outline(answer: Answer) -> float:
    """Direct least squares through the points of the outline."""
    axes = cv2.fitEllipseDirect((border_points(answer.mask) / 2).astype(np.float32))[1]
    return ellipse_circumference(max(axes), min(axes))


def by_hull(answer: Answer) -> float:
    """The ellipse of the mask's convex hull."""
    hull = cv2.convexHull(border_points(answer.mask))
    filled = np.zeros(answer.mask.shape, np.uint8)
    # Corners are in half pixels, the middle of the first pixel being at 1.
    cv2.fillPoly(filled, [np.rint((hull - 1) / 2).astype(np.int32)], 1)
    return ellipse_of(filled > 0)


def by_mean_mask(answer: Answer) -> float:
    """The ellipse of what most of the moved prompts' masks hold."""
    return ellipse_of(np.mean([answer.mask, *answer.variations], axis=0) >= 0.5)


METHODS: dict[str, Callable[[Answer], float]] = {
    "moments": by_moments,
    "outline": by_outline,
    "hull": by_hull,
    "mean_mask": by_mean_mask,
}


def ellipse_of(mask: NDArray[np.bool_]) -> float:
    """Circumference of a mask's ellipse in pixels; 0 of an empty one."""
    ellipse = measure(mask).px.ellipse
    return 0.0 if ellipse is None else ellipse.circumference


def errors(heads: Iterable[Head], prompt: str, zoomed: bool, method: Callable[[Answer], float]) -> NDArray[np.float64]:
    """Found minus table, in mm, of each head."""
    return np.array([method(one.answers[prompt, zoomed]) * one.spacing - one.circumference for one in heads])


def summarise(found: NDArray[np.float64]) -> dict[str, float]:
    """Mean absolute error, mean error, and largest absolute error, in mm."""
    values = {"mean_absolute": np.abs(found).mean(), "mean": found.mean(), "largest": np.abs(found).max()}
    return {name: round(float(value), 3) for name, value in values.items()}


def choose(taught: list[Head], held: list[Head], prompt: str) -> dict[str, Any]:
    """All ways of one kind of prompt, and the one with the smallest mean absolute error on the images that taught."""
    rows = {}
    for zoomed in (True, False):
        for name, method in METHODS.items():
            rows[f"{name}, zoom={zoomed}"] = {
                "taught": summarise(errors(taught, prompt, zoomed, method)),
                "held_back": summarise(errors(held, prompt, zoomed, method)),
            }
    chosen = min(rows, key=lambda name: rows[name]["taught"]["mean_absolute"])
    return {
        "chosen": chosen,
        "held_back": rows[chosen]["held_back"],
        "ways": rows,
        "stability": stability(held, prompt),
    }


def stability(heads: list[Head], prompt: str) -> dict[str, float]:
    """How far moved prompts change the answer of `segment`, and whether that tells of an error in the circumference."""
    measured = [
        measure(
            region_of(one.answers[prompt, True].mask),
            (one.spacing, one.spacing),
            [region_of(mask) for mask in one.answers[prompt, True].variations],
        ).stability
        for one in heads
    ]
    name = "ellipse_circumference_mm"
    off = np.abs(errors(heads, prompt, True, by_moments))
    widths = np.array([np.ptp(one.ranges[name]) for one in measured])
    agreements = np.array([one.agreement for one in measured])
    return {
        "mean_agreement": round(float(agreements.mean()), 4),
        "mean_range_mm": round(float(widths.mean()), 3),
        "rank_correlation_of_disagreement_and_error": round(rank_correlation(-agreements, off), 3),
    }


def rank_correlation(one: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    """Spearman's, of values without ties."""
    ranks = [np.argsort(np.argsort(values)) for values in (one, other)]
    return float(np.corrcoef(*ranks)[0, 1])


def region_of(mask: NDArray[np.bool_]) -> Region:
    """A mask as the runtime keeps it."""
    height, width = mask.shape
    return Region((height, width), 0, 0, mask)


def in_box(answer: Answer) -> float:
    """The ellipse that touches the box's sides and is as oblique as the mask: the box says how large, the mask how."""
    assert answer.box is not None
    rows, columns = np.nonzero(answer.mask)
    oblique = float(np.corrcoef(columns, rows)[0, 1])
    x0, y0, x1, y1 = answer.box
    width, height = x1 - x0, y1 - y0
    moments = np.array([[width**2, oblique * width * height], [oblique * width * height, height**2]])
    minor, major = np.sqrt(np.linalg.eigvalsh(moments))
    return ellipse_circumference(float(major), float(minor))


def half_box(answer: Answer) -> float:
    """Halfway between what the mask says and what the box says."""
    return (by_moments(answer) + in_box(answer)) / 2


def box_alone(answer: Answer) -> float:
    """What the box says without any image: the upright ellipse that touches its sides."""
    assert answer.box is not None
    x0, y0, x1, y1 = answer.box
    return ellipse_circumference(max(x1 - x0, y1 - y0), min(x1 - x0, y1 - y0))


BOX_METHODS: dict[str, Callable[[Answer], float]] = {"in_box": in_box, "half_box": half_box, "box_alone": box_alone}


def reference(heads: list[Head]) -> dict[str, Any]:
    """The reference masks measured like an answer, and by how many pixels they are larger on every side."""
    found = np.array([ellipse_of(one.truth) * one.spacing - one.circumference for one in heads])
    line = np.array([error / (2 * np.pi * one.spacing) for error, one in zip(found, heads, strict=True)])
    return {
        **summarise(found),
        "line_px": {"mean": round(float(line.mean()), 3), "sd": round(float(line.std()), 3)},
    }


def draw_worst(heads: list[Head], folder: Path) -> list[dict[str, Any]]:
    """Pictures of the heads that `segment` measured worst from a box: the reference green, the answer blue."""
    found = errors(heads, "box", True, by_moments)
    worst = []
    for index in np.argsort(-np.abs(found))[:WORST]:
        head = heads[index]
        answer = head.answers["box", True].mask
        canvas = cv2.cvtColor(head.image.astype(np.uint8), cv2.COLOR_GRAY2BGR)
        for mask, colour in ((head.truth, (0, 200, 0)), (answer, (255, 120, 0))):
            outlines, _ = cv2.findContours(mask.view(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
            cv2.polylines(canvas, outlines, True, colour, 1)
        cv2.imwrite(str(folder / f"{head.name}.png"), canvas)
        worst.append(
            {"image": head.name, "error_mm": round(float(found[index]), 2), "iou": mask_iou(answer, head.truth)}
        )
    return worst


def main() -> None:
    """Ask, choose, and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model", default="student")
    parser.add_argument("--overlays", type=Path, help="folder for pictures of the worst heads")
    args = parser.parse_args()
    predictor = samsdk.load(args.model, device="cpu", threads=1)
    taught, held = (list(read_heads(predictor, args.data / SET, share)) for share in (TAUGHT, HELD_BACK))
    prompts = {prompt: choose(taught, held, prompt) for prompt in ("box", "drawn_box", "point3")}
    for prompt in ("box", "drawn_box"):
        prompts[prompt]["from_the_box"] = {
            name: {
                "taught": summarise(errors(taught, prompt, False, method)),
                "held_back": summarise(errors(held, prompt, False, method)),
            }
            for name, method in BOX_METHODS.items()
        }
    numbers: dict[str, Any] = {
        "bundle": predictor.bundle.identity,
        "heads": {"taught": len(taught), "held_back": len(held)},
        "mean_circumference_mm": round(float(np.mean([one.circumference for one in held])), 1),
        "jitter": JITTER,
        "reference": reference(held),
        "prompts": prompts,
    }
    if args.overlays is not None:
        numbers["worst"] = draw_worst(held, args.overlays)
    print(write_result("head_circumference", numbers))


if __name__ == "__main__":
    main()
