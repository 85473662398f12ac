"""Validation of promptable recipes: simulated users on the sets' `val.txt`, by the protocol of `evaluation`.

The numbers pick a run's best weights; a sheet of pictures beside them shows what no number does.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from samsdk.intensity import to_uint8
from samsdk.io.images import write_png
from samsdk.prompts import Prompt
from samsdk.zoom import Zoom
from samsdk_training.data import DataError, LabelledImage, read_set
from samsdk_training.evaluation import PROMPTS, answering, evaluate_images, summarise
from samsdk_training.evaluation.objects import SMALLEST
from samsdk_training.models.sam import Sam
from samsdk_training.sheets import contact_sheet
from samsdk_training.simulate import centre_point
from samsdk_training.torch_predictor import TorchPredictor

LIST: Final = "val.txt"
SHEET: Final = "overlays.png"
# Of each image, so that one of hundreds of nuclei does not outweigh the rest.
_MAX_OBJECTS: Final = 4


def prompted_validation(
    sets: Sequence[Path],
    predictor_of: Callable[[Sam], TorchPredictor],
    *,
    images: int,
    sheet: Path,
    zoom: Zoom | None = None,
) -> Callable[[Sam], dict[str, float]]:
    """Make the function that validates a model: mean Dice over sets after a box, one click and three.

    Args:
        sets: folders, each with a `val.txt`.
        predictor_of: what answers with the model's weights, as its checkpoint will.
        images: of each set, the first of its list; all of them are read and checked.
        sheet: the picture to draw each time: the first image of each set, with the mask after one click on its first
            object.
        zoom: the second look that users are recommended; None looks once.

    Returns:
        A function from the model to `dice_box` and its like for each prompt, and `dice`, the mean of them.

    Raises:
        DataError: a set has no `val.txt`, an image or its mask is missing or malformed, or there is nothing to validate
            on.
    """
    # All of them, so that what is wrong with the last one is told before training starts, not after its first hour.
    found = False
    for folder in sets:
        for one in read_set(folder, LIST, slice(images)):
            found = found or bool(one.objects(smallest=SMALLEST))
    if not found:
        names = ", ".join(str(folder) for folder in sets) or "no set"
        raise DataError(
            f"nothing to validate on: expected an object of at least {SMALLEST} pixels in the first {images} images of "
            f"{LIST} in {names}"
        )

    def validate(model: Sam) -> dict[str, float]:
        predictor = predictor_of(model)
        rows, looks = [], []
        for folder in sets:
            labelled = list(read_set(folder, LIST, slice(images)))
            scores = list(evaluate_images(predictor, labelled, max_objects=_MAX_OBJECTS, zoom=zoom))
            if scores:
                rows.append(summarise(scores)["dice"])
                looks.append(_look(predictor, next(one for one in labelled if one.name == scores[0].image), zoom))
        write_png(sheet, contact_sheet([image for image, _ in looks], [mask for _, mask in looks], columns=6))
        means = {f"dice_{prompt}": float(np.mean([row[prompt] for row in rows])) for prompt in PROMPTS}
        return {"dice": float(np.mean(list(means.values()))), **means}

    return validate


def _look(
    predictor: TorchPredictor, labelled: LabelledImage, zoom: Zoom | None
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """An image as 8-bit RGB, and the mask after one click on its first object."""
    truth = labelled.objects(smallest=SMALLEST)[0]
    answer = answering(predictor, labelled, zoom)(Prompt([centre_point(truth)]))
    pixels = to_uint8(labelled.image, predictor.preprocessing.intensity)
    return (np.repeat(pixels[..., None], 3, axis=2) if pixels.ndim == 2 else pixels), answer.mask
