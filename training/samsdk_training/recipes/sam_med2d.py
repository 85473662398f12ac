"""Recipe `sam_med2d`: adapters in a frozen encoder, with prompt encoder and mask decoder trained whole.

After Cheng et al., SAM-Med2D, 2023 (https://github.com/OpenGVLab/SAM-Med2D, Apache-2.0), on any base whose encoder has
attention. At ViT-B and 256 pixels 184,569,136 parameters are trained, 180,504,576 of them in the adapters, which depend
on the data and so stay in the exported graph.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Final, Literal

import torch
from torch import nn

from samsdk.manifest import PROMPTABLE
from samsdk_training.augment import Augmentation
from samsdk_training.checkpoints import Checkpoint, CheckpointError
from samsdk_training.data_digest import set_digests
from samsdk_training.image_samples import ImageSource
from samsdk_training.loop import LoopConfig
from samsdk_training.lora import LoraConfig
from samsdk_training.models.adapters import Adapter
from samsdk_training.models.config import expect_fields
from samsdk_training.models.sam import Sam
from samsdk_training.models.sam_config import SamConfig
from samsdk_training.models.student import StudentEncoderConfig
from samsdk_training.nine_step_config import NineStepConfig
from samsdk_training.nine_steps import NineSteps, StepBatch
from samsdk_training.recipes.tuned import TunedRun
from samsdk_training.recipes.validation import SHEET, prompted_validation
from samsdk_training.resize import resize_config
from samsdk_training.samples import SampleSet
from samsdk_training.torch_predictor import TorchPredictor
from samsdk_training.tuning import Base, Tuning

logger = logging.getLogger(__name__)
RECIPE: Final = "sam_med2d"
TUNING: Final = Tuning(
    LoraConfig(encoder="none", decoder="none"), ("image_encoder.*.Adapter.*", "prompt_encoder.*", "mask_decoder.*")
)
_KINDS: Final = ["points", "box", "mask"]
_NO_AUGMENTATION: Final = Augmentation().with_probabilities(0.0)


def _published_loop() -> LoopConfig:
    """Adam at one rate, without decay or clipping; the number of steps is ours."""
    return LoopConfig(
        steps=18_000,
        learning_rate=1e-4,
        weight_decay=0.0,
        final_lr_share=1.0,
        clip_norm=None,
        validate_every=900,
        save_every=900,
    )


@dataclass(frozen=True)
class SamMed2dRecipe:
    """All that a run depends on, beside its base and its data.

    The publication's own numbers are the defaults, but for what is marked as ours.

    Attributes:
        loop: steps, rates, precision. A batch takes `interaction.steps` optimiser steps, nine by default, of which each
            needs those before it: runs are validated and saved between two batches only.
        interaction: how a batch is gone through. Ours: the Dice loss and the IoU are of each object, not of the batch.
        image_size: side of the input in pixels; None keeps the base's. The publication's is 256.
        adapters: where new adapters stand: `code`, beside the MLPs, as the published weights have them; `figure`, after
            the attentions, as the paper's figure has them. A base that has adapters keeps its own.
        adapter_start: what new adapters begin as. `published`: random, so that the layer norm at an adapter's end
            disturbs what the frozen encoder knows from the first step on. `identity` (ours): that layer norm begins
            with the weight 0, so that the first answers are the base's. Adapters in the place `figure` take in all of
            an attention's output, so that nothing would be left of it: they can only begin as `published`.
        augmentation: how images are varied; None, as published, does not.
        batch_size: images in a batch; ours, between the 2 of the published code and the 50 of the paper's machines.
        masks_per_image: objects of each image, drawn with replacement.
        smallest: objects of fewer pixels are not trained on (ours).
        validation_images: of each validation set, the first of its list (ours).

    Raises:
        ValueError: the values do not go together; the text lists every problem.
    """

    loop: LoopConfig = field(default_factory=_published_loop)
    interaction: NineStepConfig = field(default_factory=NineStepConfig)
    image_size: int | None = None
    adapters: Literal["code", "figure"] = "code"
    adapter_start: Literal["identity", "published"] = "identity"
    augmentation: Augmentation | None = None
    batch_size: int = 8
    masks_per_image: int = 5
    smallest: int = 30
    validation_images: int = 4

    def __post_init__(self) -> None:
        problems = [
            f"{name}: expected a whole number of at least 1, got {value!r}"
            for name in ("image_size", "batch_size", "masks_per_image", "smallest", "validation_images")
            if not (_is_whole(value := getattr(self, name)) or (name == "image_size" and value is None))
        ]
        if self.adapters not in ("code", "figure"):
            problems.append(f"adapters: expected 'code' or 'figure', got {self.adapters!r}")
        if self.adapter_start not in ("identity", "published"):
            problems.append(f"adapter_start: expected 'identity' or 'published', got {self.adapter_start!r}")
        elif (self.adapters, self.adapter_start) == ("figure", "identity"):
            problems.append("adapter_start: adapters in the place 'figure' can only begin as 'published'")
        cycle = self.interaction.steps
        problems += [
            f"loop.{name}: expected a multiple of the {cycle} steps of a batch, got {getattr(self.loop, name)}"
            for name in ("steps", "validate_every", "save_every")
            if getattr(self.loop, name) % cycle
        ]
        if self.loop.accumulate != 1:
            problems.append(
                f"loop.accumulate: expected 1, since a batch's steps are its own, got {self.loop.accumulate}"
            )
        if problems:
            raise ValueError("\n  ".join([f"the recipe {RECIPE} is not valid:", *problems]))

    def to_dict(self) -> dict[str, Any]:
        """The recipe as JSON holds it."""
        plain = {one.name: getattr(self, one.name) for one in fields(self)}
        augmentation = None if self.augmentation is None else self.augmentation.to_dict()
        parts = {"loop": self.loop.to_dict(), "interaction": self.interaction.to_dict(), "augmentation": augmentation}
        return {"recipe": RECIPE, **plain, **parts}

    @classmethod
    def from_dict(cls, content: object) -> "SamMed2dRecipe":
        """Build what `to_dict` gave; fields that are left out keep their defaults.

        Raises:
            ValueError: this is another recipe, or a field is unknown or not valid.
        """
        names = {one.name for one in fields(cls)}
        given = dict(expect_fields(RECIPE, content, {"recipe", *names}, names))
        if (name := given.pop("recipe")) != RECIPE:
            raise ValueError(f"recipe: expected {RECIPE!r}, got {name!r}")
        try:
            if "loop" in given:
                given["loop"] = LoopConfig.from_dict(given["loop"])
            if given.get("augmentation") is not None:
                given["augmentation"] = Augmentation.from_dict(given["augmentation"])
        except (TypeError, AttributeError) as error:
            raise ValueError(f"{RECIPE}: {error}") from error
        if "interaction" in given:
            given["interaction"] = NineStepConfig.from_dict(given["interaction"])
        return cls(**given)

    def model(self, base: SamConfig) -> SamConfig:
        """The shape of the model that is trained on a base of this shape.

        Raises:
            CheckpointError: the encoder has no attention that adapters could stand beside, or cannot have this input
                size.
        """
        shape = resize_config(base, self.image_size)
        encoder = shape.encoder
        if isinstance(encoder, StudentEncoderConfig):
            raise CheckpointError("expected a base whose encoder has attention (ViT or TinyViT), got a student")
        adapters = self.adapters if encoder.adapters == "none" else encoder.adapters
        try:
            return replace(shape, encoder=replace(encoder, adapters=adapters))
        except ValueError as error:
            raise CheckpointError(f"this base cannot have adapters: {error}") from error


def train_sam_med2d(
    recipe: SamMed2dRecipe,
    base: Base,
    sets: Sequence[Path],
    run: Path,
    *,
    licence: Mapping[str, Any],
    show_progress: bool = True,
) -> dict[str, Any]:
    """Train a base with adapters, or go on with a run that was interrupted.

    Args:
        recipe: what to do.
        base: what to start from; adapters that it has are trained on.
        sets: labelled sets; `train.txt` of each is trained on, `val.txt` picks the best weights.
        run: the run's folder; `run/best` becomes the checkpoint, `run/adapter` what was learned, without the base.
        licence: of the weights, with the attributions that base and sets ask for.
        show_progress: whether to draw a progress bar on stderr.

    Returns:
        What `loop.fit` returns.

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
        recipe.augmentation or _NO_AUGMENTATION,
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
    facts = {**recipe.to_dict(), "sets": source.summary(), "data_sha256": set_digests(sets)}
    tuned = TunedRun(base, TUNING, description, recipe.loop, facts)
    return tuned.fit(
        _start(recipe, tuned),
        batch_of=_batches(recipe, source),
        loss_of=NineSteps(recipe.interaction).loss,
        validate=validate,
        run=run,
        show_progress=show_progress,
    )


def _description(recipe: SamMed2dRecipe, base: Base, licence: Mapping[str, Any]) -> Checkpoint:
    checkpoint = base.checkpoint
    if checkpoint.task != PROMPTABLE:
        raise CheckpointError(f"expected a base that takes prompts, got a {checkpoint.task} one")
    model = recipe.model(SamConfig.from_dict(checkpoint.model))
    return replace(
        checkpoint,
        model=model.to_dict(),
        geometry={**checkpoint.geometry, "input_size": model.encoder.image_size},
        # The decoder's first mask is never trained: of the others the one that is predicted to be the best answers.
        prompts={"kinds": _KINDS, "trained": _KINDS, "mask": "sigmoid", "single": "best"},
        classes={},
        licence=dict(licence),
        lineage={},
        state={},
    )


def _start(recipe: SamMed2dRecipe, tuned: TunedRun) -> Sam:
    model = tuned.start()
    had = SamConfig.from_dict(tuned.base.checkpoint.model).encoder
    if recipe.adapter_start == "identity" and getattr(had, "adapters", "none") == "none":
        for module in model.modules():
            if isinstance(module, Adapter):
                nn.init.zeros_(module.norm.weight)
    return model


def _batches(recipe: SamMed2dRecipe, source: ImageSource) -> Callable[[int], StepBatch]:
    @lru_cache(maxsize=1)  # a batch's steps follow one another
    def drawn(batch: int) -> tuple[torch.Tensor, torch.Tensor]:
        images, masks = source.images(batch, recipe.batch_size, recipe.masks_per_image)
        return torch.from_numpy(images), torch.from_numpy(masks)

    return lambda number: StepBatch(number, *drawn(number // recipe.interaction.steps))


def _is_whole(value: Any) -> bool:
    return type(value) is int and value >= 1
