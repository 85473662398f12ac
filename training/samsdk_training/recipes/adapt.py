"""Recipe `adapt`: a promptable model, usually the default one, fine-tuned on a few labelled images of one's own.

Ten to fifty images are little: what they teach is mixed with what the base knew (WiSE-FT, Wortsman et al., Robust
fine-tuning of zero-shot models, CVPR 2022), so that the model stays good at all other images too.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from samsdk.manifest import PROMPTABLE
from samsdk_training.augment import Augmentation
from samsdk_training.checkpoints import Checkpoint, CheckpointError, load_checkpoint
from samsdk_training.data import DataError
from samsdk_training.data_digest import set_digests
from samsdk_training.evaluation import PROMPTS
from samsdk_training.interaction import InteractionConfig, interactive_loss
from samsdk_training.loop import LoopConfig
from samsdk_training.lora import LoraConfig
from samsdk_training.models.config import expect_fields
from samsdk_training.models.sam import Sam
from samsdk_training.recipes.before_after import mean_dice, second_look, write_before_after
from samsdk_training.recipes.blended import BlendedRun
from samsdk_training.recipes.few_images import held_back_images, training_set
from samsdk_training.samples import SampleSource
from samsdk_training.torch_predictor import TorchPredictor
from samsdk_training.tuning import Base, Tuning

logger = logging.getLogger(__name__)
RECIPE: Final = "adapt"
_KINDS: Final = ("points", "box", "mask")
_FEWEST: Final = 2
Batch = tuple[Tensor, Tensor]


def _minutes() -> LoopConfig:
    return LoopConfig(
        steps=200,
        learning_rate=3e-4,
        warmup_steps=10,
        ema_decay=0.95,
        validate_every=40,
        save_every=40,
        patience=3,
        validate_start=True,
    )


def _everything() -> Tuning:
    return Tuning(LoraConfig(encoder="none", decoder="none"), ("image_encoder.*", "prompt_encoder.*", "mask_decoder.*"))


@dataclass(frozen=True)
class AdaptRecipe:
    """All that a run depends on, beside its base and its data.

    Attributes:
        loop: steps, rates, precision, and after how many validations without gain to stop.
        tuning: what of the base is trained.
        share: of what prompt encoder and decoder learned in what is validated and saved, above 0 to 1; the rest is the
            base (WiSE-FT).
        encoder_share: the same of the image encoder, 0 to 1. What a model forgets of other images it forgets there:
            more learns the new images better, less keeps the others.
        interaction: how simulated users prompt.
        augmentation: how images are varied.
        batch_size: objects in a micro-batch, each from an image of its own.
        images: of each set's `train.txt`, the first so many, or of volumes so many slices; None takes all.
        smallest: objects of fewer pixels are not trained on.
        validation_images: of each set's `val.txt`, for early stopping; of volumes so many slices.
        compared_images: of each set's `val.txt`, for the table of before and after; those for early stopping are the
            first of them, which flatters the table a little.

    Raises:
        ValueError: the values are not valid; the text lists every problem.
    """

    loop: LoopConfig = field(default_factory=_minutes)
    tuning: Tuning = field(default_factory=_everything)
    share: float = 1.0
    encoder_share: float = 0.05
    interaction: InteractionConfig = field(default_factory=InteractionConfig)
    augmentation: Augmentation = field(default_factory=Augmentation)
    batch_size: int = 8
    images: int | None = None
    smallest: int = 30
    validation_images: int = 8
    compared_images: int = 24

    def __post_init__(self) -> None:
        problems = [
            f"{name}: expected a whole number of at least {least}, got {value!r}"
            for name, least in _LEAST.items()
            if (type(value := getattr(self, name)) is not int or value < least)
            and not (name == "images" and value is None)
        ]
        if not _is_share(self.share) or self.share == 0:
            problems.append(f"share: expected a number above 0, at most 1, got {self.share!r}")
        if not _is_share(self.encoder_share):
            problems.append(f"encoder_share: expected a number from 0 to 1, got {self.encoder_share!r}")
        if problems:
            raise ValueError("\n  ".join([f"the recipe {RECIPE} is not valid:", *problems]))

    def to_dict(self) -> dict[str, Any]:
        """The recipe as JSON holds it."""
        plain = {one.name: getattr(self, one.name) for one in fields(self)}
        parts = {
            "loop": self.loop.to_dict(),
            "tuning": self.tuning.to_dict(),
            "interaction": asdict(self.interaction),
            "augmentation": self.augmentation.to_dict(),
        }
        return {"recipe": RECIPE, **plain, **parts}

    @classmethod
    def from_dict(cls, content: object) -> "AdaptRecipe":
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


def train_adapt(
    recipe: AdaptRecipe,
    base: Base,
    sets: Sequence[Path],
    run: Path,
    *,
    licence: Mapping[str, Any],
    show_progress: bool = True,
) -> dict[str, Any]:
    """Fine-tune a base, or go on with a run that was interrupted, and say what changed.

    Args:
        recipe: what to do.
        base: what to start from.
        sets: labelled sets; `train.txt` of each is trained on, `val.txt` says when to stop and what changed.
        run: the run's folder; `run/best` becomes the checkpoint, `run/adapter` what was learned, without the base;
            `run/before_after.json` and `.png` compare the two.
        licence: of the weights, with the attributions that base and sets ask for.
        show_progress: whether to draw a progress bar on stderr.

    Returns:
        What `loop.fit` returns, and `before_after`, see `before_after.compare`.

    Raises:
        DataError: a set is missing or malformed, or has not two images to train on or none to validate on.
        CheckpointError: the base takes no prompts.
        TrainingError: the run belongs to another configuration, or the loss is not finite.
    """
    description = _description(base, licence)
    preprocessing = description.preprocessing
    held_back = {
        folder.name: held_back_images(folder, recipe.validation_images, recipe.compared_images) for folder in sets
    }
    chosen = [training_set(folder, recipe.images) for folder in sets]
    source = SampleSource(chosen, preprocessing, recipe.augmentation, seed=recipe.loop.seed, smallest=recipe.smallest)
    for name, row in source.summary().items():
        logger.info("%s: %d images, %d objects, share %.3f", name, row["images"], row["objects"], row["share"])
        if row["images"] < _FEWEST:
            raise DataError(f"{name}: expected at least {_FEWEST} images with objects to train on, got {row['images']}")
    content = {**recipe.to_dict(), "sets": source.summary(), "data_sha256": set_digests(sets)}
    tuned = BlendedRun(base, recipe.tuning, description, recipe.loop, content, recipe.share, recipe.encoder_share)

    def batch_of(number: int) -> Batch:
        batch = source.batch(number, recipe.batch_size)
        return torch.from_numpy(batch.images), torch.from_numpy(batch.masks)

    def loss_of(model: Sam, batch: Batch, generator: torch.Generator) -> dict[str, Tensor]:
        return interactive_loss(model, *batch, generator, recipe.interaction)

    def validate(model: Sam) -> dict[str, float]:
        predictor = TorchPredictor(model, preprocessing, single_mask=description.single_mask)
        with tuned.blended(model):
            rows = [
                mean_dice(predictor, some[: recipe.validation_images], second_look(description))
                for some in held_back.values()
            ]
        means = {f"dice_{prompt}": float(np.mean([row[prompt] for row in rows])) for prompt in PROMPTS}
        return {"dice": float(np.mean(list(means.values()))), **means}

    result = tuned.fit(
        tuned.start(), batch_of=batch_of, loss_of=loss_of, validate=validate, run=run, show_progress=show_progress
    )
    table = write_before_after(base.checkpoint, load_checkpoint(run / "best"), held_back, run)
    return {**result, "before_after": table}


def _description(base: Base, licence: Mapping[str, Any]) -> Checkpoint:
    checkpoint = base.checkpoint
    if checkpoint.task != PROMPTABLE:
        raise CheckpointError(f"expected a base that takes prompts, got a {checkpoint.task} one")
    trained = [kind for kind in _KINDS if kind in checkpoint.prompts["kinds"]]
    return replace(
        checkpoint, prompts={**checkpoint.prompts, "trained": trained}, licence=dict(licence), lineage={}, state={}
    )


def _is_share(value: Any) -> bool:
    return type(value) in (int, float) and 0 <= value <= 1


def _interaction(content: object) -> InteractionConfig:
    names = {one.name for one in fields(InteractionConfig)}
    return InteractionConfig(**expect_fields("interaction", content, names, names))


_LEAST: Final = {
    "batch_size": 1,
    "images": _FEWEST,
    "smallest": 1,
    "validation_images": 1,
    "compared_images": 1,
}
_PARTS: Final[dict[str, Callable[[Any], Any]]] = {
    "loop": LoopConfig.from_dict,
    "tuning": Tuning.from_dict,
    "interaction": _interaction,
    "augmentation": Augmentation.from_dict,
}
