"""Recipe `lite_medsam`: LiteMedSAM, or any promptable base, fine-tuned with boxes and low-rank weights.

After the second stage of LiteMedSAM's training (Ma et al., https://github.com/bowang-lab/MedSAM, branch LiteMedSAM,
Apache-2.0), which trains the whole network: boxes whose sides lie a little outside the object, both flips, and the sum
of a Dice loss, cross entropy and the squared error of the predicted IoU. Low-rank weights take the network's place, so
that what is learned from a few images is a small file and merges without a cost.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from samsdk.manifest import PROMPTABLE
from samsdk_training.augment import Augmentation
from samsdk_training.checkpoints import Checkpoint, CheckpointError, load_checkpoint
from samsdk_training.data_digest import set_digests
from samsdk_training.image_samples import ImageSource
from samsdk_training.loop import LoopConfig
from samsdk_training.lora import LoraConfig
from samsdk_training.models.config import expect_fields
from samsdk_training.models.sam import Sam
from samsdk_training.models.sam_config import SamConfig
from samsdk_training.recipes.before_after import write_before_after
from samsdk_training.recipes.few_images import held_back_images
from samsdk_training.recipes.single_prompt import single_prompt_loss
from samsdk_training.recipes.tuned import TunedRun
from samsdk_training.recipes.validation import SHEET, prompted_validation
from samsdk_training.resize import resize_config
from samsdk_training.samples import SampleSet
from samsdk_training.torch_predictor import TorchPredictor
from samsdk_training.tuning import Base, Tuning

logger = logging.getLogger(__name__)
RECIPE: Final = "lite_medsam"
Batch = tuple[Tensor, Tensor]


def _loop() -> LoopConfig:
    """AdamW with the published decay of the weights; rate and schedule are ours."""
    return LoopConfig(steps=300, learning_rate=5e-4, warmup_steps=10, validate_every=50, save_every=50, patience=3)


def _flips() -> Augmentation:
    return Augmentation().with_probabilities(0.0).with_probabilities(0.5, ("flip_horizontal", "flip_vertical"))


def _low_rank() -> Tuning:
    return Tuning(LoraConfig(rank=4, encoder="qv", decoder="qv"))


@dataclass(frozen=True)
class LiteMedSamRecipe:
    """All that a run depends on, beside its base and its data.

    Attributes:
        loop: steps, rates, precision.
        tuning: what of the base is trained, see `Tuning.fitted`; the publication trains all of it.
        image_size: side of the input in pixels; None keeps the base's.
        box_shift: most pixels of the input by which each side of a box is moved outward.
        points: share of the objects that are asked for by one point inside them instead of a box (ours; published: 0).
        augmentation: how images are varied; both flips, as published.
        batch_size: images in a micro-batch.
        masks_per_image: objects of each image, drawn with replacement (published: 1). An image is encoded once.
        smallest: objects of fewer pixels are not trained on.
        validation_images: of each set, the first of its `val.txt`.
        compared_images: of each set's `val.txt`, for the table of before and after.

    Raises:
        ValueError: the values are not valid; the text lists every problem.
    """

    loop: LoopConfig = field(default_factory=_loop)
    tuning: Tuning = field(default_factory=_low_rank)
    image_size: int | None = None
    box_shift: int = 5
    points: float = 0.0
    augmentation: Augmentation = field(default_factory=_flips)
    batch_size: int = 4
    masks_per_image: int = 4
    smallest: int = 30
    validation_images: int = 8
    compared_images: int = 24

    def __post_init__(self) -> None:
        problems = [
            f"{name}: expected a whole number of at least {least}, got {value!r}"
            for name, least in _LEAST.items()
            if (type(value := getattr(self, name)) is not int or value < least)
            and not (name == "image_size" and value is None)
        ]
        if type(self.points) not in (int, float) or not 0 <= self.points <= 1:
            problems.append(f"points: expected a number from 0 to 1, got {self.points!r}")
        if problems:
            raise ValueError("\n  ".join([f"the recipe {RECIPE} is not valid:", *problems]))

    def to_dict(self) -> dict[str, Any]:
        """The recipe as JSON holds it."""
        plain = {one.name: getattr(self, one.name) for one in fields(self)}
        parts = {
            "loop": self.loop.to_dict(),
            "tuning": self.tuning.to_dict(),
            "augmentation": self.augmentation.to_dict(),
        }
        return {"recipe": RECIPE, **plain, **parts}

    @classmethod
    def from_dict(cls, content: object) -> "LiteMedSamRecipe":
        """Build what `to_dict` gave; fields that are left out keep their defaults.

        Raises:
            ValueError: this is another recipe, or a field is unknown or not valid.
        """
        names = {one.name for one in fields(cls)}
        given = dict(expect_fields(RECIPE, content, {"recipe", *names}, names))
        if (name := given.pop("recipe")) != RECIPE:
            raise ValueError(f"recipe: expected {RECIPE!r}, got {name!r}")
        try:
            for part, build in _PARTS.items():
                if part in given:
                    given[part] = build(given[part])
        except (TypeError, AttributeError) as error:
            raise ValueError(f"{RECIPE}: {error}") from error
        return cls(**given)


def train_lite_medsam(
    recipe: LiteMedSamRecipe,
    base: Base,
    sets: Sequence[Path],
    run: Path,
    *,
    licence: Mapping[str, Any],
    show_progress: bool = True,
) -> dict[str, Any]:
    """Fine-tune a base with boxes, or go on with a run that was interrupted, and say what changed.

    Args:
        recipe: what to do.
        base: what to start from.
        sets: labelled sets; `train.txt` of each is trained on, `val.txt` picks the best weights (by boxes alone where
            nothing else is trained) and says what changed.
        run: the run's folder; `run/best` becomes the checkpoint, `run/adapter` what was learned, without the base;
            `run/before_after.json` and `.png` compare the two.
        licence: of the weights, with the attributions that base and sets ask for.
        show_progress: whether to draw a progress bar on stderr.

    Returns:
        What `loop.fit` returns, and `before_after`, see `before_after.compare`.

    Raises:
        DataError: a set is missing or malformed, or has nothing to train or validate on.
        CheckpointError: the recipe does not go with the base.
        TrainingError: the run belongs to another configuration, or the loss is not finite.
    """
    description = _description(recipe, base, licence)
    preprocessing = description.preprocessing
    source = ImageSource(
        [SampleSet(folder) for folder in sets],
        preprocessing,
        recipe.augmentation,
        seed=recipe.loop.seed,
        smallest=recipe.smallest,
    )
    for name, row in source.summary().items():
        logger.info("%s: %d images, %d objects, share %.3f", name, row["images"], row["objects"], row["share"])
    validate = prompted_validation(
        sets,
        lambda trained: TorchPredictor(trained, preprocessing, single_mask=description.single_mask),
        images=recipe.validation_images,
        sheet=run / SHEET,
    )

    held_back = {
        folder.name: held_back_images(folder, recipe.validation_images, recipe.compared_images) for folder in sets
    }

    def batch_of(number: int) -> Batch:
        images, masks = source.images(number, recipe.batch_size, recipe.masks_per_image)
        return torch.from_numpy(images), torch.from_numpy(masks)

    def loss_of(model: Sam, batch: Batch, generator: torch.Generator) -> dict[str, Tensor]:
        return single_prompt_loss(model, *batch, generator, box_shift=recipe.box_shift, points=recipe.points)

    content = {**recipe.to_dict(), "sets": source.summary(), "data_sha256": set_digests(sets)}
    tuning = recipe.tuning.fitted(SamConfig.from_dict(description.model))
    tuned = TunedRun(base, tuning, description, recipe.loop, content)
    result = tuned.fit(
        tuned.start(),
        batch_of=batch_of,
        loss_of=loss_of,
        validate=validate,
        run=run,
        score="dice" if recipe.points else "dice_box",
        show_progress=show_progress,
    )
    table = write_before_after(base.checkpoint, load_checkpoint(run / "best"), held_back, run)
    return {**result, "before_after": table}


def _description(recipe: LiteMedSamRecipe, base: Base, licence: Mapping[str, Any]) -> Checkpoint:
    checkpoint = base.checkpoint
    if checkpoint.task != PROMPTABLE:
        raise CheckpointError(f"expected a base that takes prompts, got a {checkpoint.task} one")
    model = resize_config(SamConfig.from_dict(checkpoint.model), recipe.image_size)
    taught = {"box", *checkpoint.prompts["trained"], *(["points"] if recipe.points else [])}
    trained = [kind for kind in checkpoint.prompts["kinds"] if kind in taught]
    return replace(
        checkpoint,
        model=model.to_dict(),
        geometry={**checkpoint.geometry, "input_size": model.encoder.image_size},
        prompts={**checkpoint.prompts, "trained": trained},
        licence=dict(licence),
        lineage={},
        state={},
    )


_LEAST: Final = {
    "image_size": 1,
    "box_shift": 0,
    "batch_size": 1,
    "masks_per_image": 1,
    "smallest": 1,
    "validation_images": 1,
    "compared_images": 1,
}
_PARTS: Final[dict[str, Callable[[Any], Any]]] = {
    "loop": LoopConfig.from_dict,
    "tuning": Tuning.from_dict,
    "augmentation": Augmentation.from_dict,
}
