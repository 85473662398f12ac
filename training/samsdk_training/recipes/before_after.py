"""Before and after: what fine-tuning did to a model, on the same held-back images and by the same prompts."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from samsdk.intensity import to_uint8
from samsdk.io.atomic import atomic_write
from samsdk.io.images import write_png
from samsdk.prompts import Prompt
from samsdk.zoom import Zoom
from samsdk_training.checkpoints import Checkpoint
from samsdk_training.data import LabelledImage
from samsdk_training.evaluation import PROMPTS, answering, evaluate_images, summarise
from samsdk_training.evaluation.objects import SMALLEST
from samsdk_training.sheets import contact_sheet
from samsdk_training.simulate import centre_point
from samsdk_training.torch_predictor import TorchPredictor

TABLE: Final = "before_after.json"
SHEET: Final = "before_after.png"
Images = Mapping[str, Sequence[LabelledImage]]
# Of each image, so that one of hundreds of nuclei does not outweigh the rest.
_MAX_OBJECTS: Final = 4
# Rows of the sheet for each set, and its columns: two images a row, each with its object, before and after.
_LOOKS: Final = 4
_COLUMNS: Final = 6


def mean_dice(predictor: TorchPredictor, images: Sequence[LabelledImage], zoom: Zoom | None) -> dict[str, float]:
    """Mean Dice over the objects of some images, by the prompts that models are evaluated with.

    Args:
        predictor: what answers.
        images: with an object each.
        zoom: the second look that users are recommended; None looks once.
    """
    scores = list(evaluate_images(predictor, images, max_objects=_MAX_OBJECTS, zoom=zoom))
    return dict(summarise(scores)["dice"])


def compare(before: Checkpoint, after: Checkpoint, images: Images) -> dict[str, Any]:
    """Measure two checkpoints on the same images, each with the second look that it recommends.

    Args:
        before: the base.
        after: what was made of it.
        images: of each set by its name, with an object each.

    Returns:
        `sets`, by name: `images` and, by prompt, Dice `before` and `after`; `mean`: the same two, over the sets.
    """
    models = {"before": before, "after": after}
    predictors = {name: _predictor(one) for name, one in models.items()}
    sets: dict[str, dict[str, Any]] = {name: {"images": len(some)} for name, some in images.items()}
    for when, one in models.items():
        for name, some in images.items():
            sets[name][when] = mean_dice(predictors[when], some, second_look(one))
    means = {
        when: {prompt: float(np.mean([row[when][prompt] for row in sets.values()])) for prompt in PROMPTS}
        for when in models
    }
    return {"sets": sets, "mean": means}


def write_before_after(before: Checkpoint, after: Checkpoint, images: Images, run: Path) -> dict[str, Any]:
    """Write `before_after.json`, what `compare` says, and `before_after.png` into a run's folder.

    The picture shows the first object of a few images of each set, three times each: as it is labelled, and as the
    model finds it from one click before and after.

    Args:
        before: the base.
        after: what was made of it.
        images: of each set by its name, with an object each.
        run: the folder.

    Returns:
        What `compare` returns.
    """
    table = compare(before, after, images)
    with atomic_write(run / TABLE) as file:
        file.write((json.dumps(table, indent=2) + "\n").encode())
    pictures: list[NDArray[np.uint8]] = []
    masks: list[NDArray[np.bool_]] = []
    for some in images.values():
        for one in some[:_LOOKS]:
            truth = one.objects(smallest=SMALLEST)[0]
            pixels = to_uint8(one.image, before.preprocessing.intensity)
            pictures += [np.repeat(pixels[..., None], 3, axis=2) if pixels.ndim == 2 else pixels] * 3
            masks += [truth, *(_one_click(model, one, truth) for model in (before, after))]
    write_png(run / SHEET, contact_sheet(pictures, masks, columns=_COLUMNS))
    return table


def describe(table: Mapping[str, Any]) -> str:
    """What `compare` returns, for people: Dice of each set before and after, in one line; and what got worse."""
    rows = [*table["sets"].items(), *([("mean over sets", table["mean"])] if len(table["sets"]) > 1 else [])]
    width = max(len(name) for name, _ in rows)
    lines = [
        f"{name.ljust(width)}  " + "  ".join(f"{p} {row['before'][p]:.3f} -> {row['after'][p]:.3f}" for p in PROMPTS)
        for name, row in rows
    ]
    before, after = table["mean"]["before"], table["mean"]["after"]
    worse = [prompt for prompt in PROMPTS if after[prompt] < before[prompt]]
    if worse:
        lines.append(f"Worse than the base with {', '.join(worse)}: keep the base for these, or label more images.")
    return "\n".join(["Dice on held-back images, before and after:", *lines])


def second_look(checkpoint: Checkpoint) -> Zoom | None:
    """The zoom that a checkpoint recommends."""
    zoom = checkpoint.prompts.get("zoom")
    return Zoom(**zoom) if zoom else None


def _predictor(checkpoint: Checkpoint) -> TorchPredictor:
    return TorchPredictor.of(checkpoint, checkpoint.build())


def _one_click(checkpoint: Checkpoint, labelled: LabelledImage, truth: NDArray[np.bool_]) -> NDArray[np.bool_]:
    answer = answering(_predictor(checkpoint), labelled, second_look(checkpoint))
    return answer(Prompt([centre_point(truth)])).mask
