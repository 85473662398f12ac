"""The images that semantic models are trained on: all of some sets, or exemplars and what is synthesised of them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from samsdk_training.data import DataError, LabelledImage, number_classes
from samsdk_training.label_samples import as_picture, epochs
from samsdk_training.pictures import Picture
from samsdk_training.set_folder import SetFolder, shortened
from samsdk_training.split import TRAIN_LIST
from samsdk_training.synthesis import SynthesisConfig, Synthesiser, choose_exemplars, summarise_slice
from samsdk_training.synthesis.pool import ImagePool, read_pool

FOREGROUND = "foreground"


@dataclass(frozen=True)
class SemanticData:
    """Where the training images come from.

    Attributes:
        draw: the picture of a number from 0 on.
        classes: name of each class by its number as text, `0` the background.
        summary: of each set the numbers of images and of those with a label; and the exemplars, where there are any.
    """

    draw: Callable[[int], Picture]
    classes: dict[str, str]
    summary: dict[str, Any]


def read_semantic_data(
    sets: Sequence[Path],
    intensity: str,
    exemplars: int | None,
    synthesis: SynthesisConfig | None,
    *,
    union: bool = False,
    seed: int = 0,
) -> SemanticData:
    """Read the training images of some sets.

    Args:
        sets: folders, each with a `train.txt`.
        intensity: the model's rule, see `samsdk.intensity`.
        exemplars: how many of all images are taken for annotated; None takes all of them.
        synthesis: what may happen to exemplars; None takes them as they are.
        union: whether all labels, classes or instances, are class 1.
        seed: of the order of the images, and of all that is drawn.

    Raises:
        DataError: a set is missing, malformed or given twice, an image has no mask and there is no synthesis that takes
            it for a background, no image has a label, or the sets name different classes.
    """
    if len({folder.name for folder in sets}) < len(sets):
        raise DataError(f"expected sets whose folders have different names, got: {', '.join(map(str, sets))}")
    pools = {folder: read_pool(SetFolder(folder), TRAIN_LIST) for folder in sets}
    if synthesis is None:
        _expect_masks(pools)
    if len(sets) > 1:
        # One id may be another image in another set.
        pools = {folder: pool.within(folder.name) for folder, pool in pools.items()}
    images = [one.united() if union else one for pool in pools.values() for one in pool.annotated.values()]
    if not any(one.label.any() for one in images):
        raise DataError(f"no pixel of {', '.join(map(str, sets)) or 'no set'} is labelled in {TRAIN_LIST}")
    classes = {"0": "background", "1": FOREGROUND} if union else _class_names(sets, images)
    summary: dict[str, Any] = {
        folder.name: {
            "images": len(pool.names),
            "labelled": sum(bool(one.label.any()) for one in pool.annotated.values()),
        }
        for folder, pool in pools.items()
    }
    chosen = images
    if exemplars is not None:
        chosen = _exemplars(images, exemplars, synthesis or SynthesisConfig(), seed)
        summary["exemplars"] = [one.name for one in chosen]
    pictures = [as_picture(one, intensity, classes=len(classes) - 1) for one in chosen]
    if synthesis is None:
        return SemanticData(epochs(pictures, seed), classes, summary)
    synthesiser = _synthesiser(chosen, list(pools.values()), synthesis, seed, intensity)

    def draw(index: int) -> Picture:
        made = synthesiser.mixed(index)
        return Picture(made.image, made.label)

    return SemanticData(draw, classes, summary)


def _expect_masks(pools: Mapping[Path, ImagePool]) -> None:
    for folder, pool in pools.items():
        if pool.bare:
            raise DataError(
                f"{len(pool.bare)} images of {TRAIN_LIST} in {folder} have no mask: {shortened(pool.bare)}; add masks, "
                "or take them off the list (only synthesis uses images without a mask, as backgrounds)"
            )


def _class_names(sets: Sequence[Path], images: Sequence[LabelledImage]) -> dict[str, str]:
    named = [SetFolder(folder).class_names() for folder in sets]
    if any(one != named[0] for one in named):
        raise DataError(f"the sets name different classes: {'; '.join(map(str, named))}")
    highest = max(int(one.label.max()) for one in images)
    return number_classes(named[0], highest)


def _exemplars(images: Sequence[LabelledImage], count: int, config: SynthesisConfig, seed: int) -> list[LabelledImage]:
    by_name = {one.name: one for one in images}
    slices = [summarise_slice(one) for one in images if one.label.any()]
    return [by_name[name] for name in choose_exemplars(slices, count, config, seed=seed)]


def _synthesiser(
    exemplars: Sequence[LabelledImage], pools: Sequence[ImagePool], config: SynthesisConfig, seed: int, intensity: str
) -> Synthesiser:
    of_name = {name: pool for pool in pools for name in pool.names}
    return Synthesiser(
        exemplars, list(of_name), lambda name: of_name[name].image(name), config, seed=seed, intensity=intensity
    )
