"""Recipe `sac`: a model that prompts itself, after Segment Any Cell (Na et al., 2024).

A U-Net says where objects are, points are picked from its map, and a promptable model answers them with one mask of all
objects. Both are trained at once: points are picked, not computed, so that the U-Net learns from its own cross entropy
alone. Of the publication no code is known; what it does not say is a field here.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from samsdk.manifest import AUTO
from samsdk.point_selection import PointSelection
from samsdk.splitting import Splitting
from samsdk_training.checkpoints import Checkpoint, CheckpointError
from samsdk_training.data_digest import set_digests
from samsdk_training.label_samples import LabelBatch, LabelSource
from samsdk_training.loop import LoopConfig
from samsdk_training.lora import LoraConfig
from samsdk_training.models.auto_prompt import AutoPromptConfig
from samsdk_training.models.config import expect_fields
from samsdk_training.models.sam import Sam
from samsdk_training.models.sam_config import SamConfig
from samsdk_training.pictures import CellAugmentation
from samsdk_training.recipes.sac_loss import SacWeights, sac_loss
from samsdk_training.recipes.semantic_data import read_semantic_data
from samsdk_training.recipes.semantic_validation import foreground_validation
from samsdk_training.recipes.tuned import TunedRun
from samsdk_training.resize import resize_config
from samsdk_training.tuning import Base, Tuning

GENERATOR = "auto_prompt_generator.*"


@dataclass(frozen=True)
class SacRecipe:
    """All that a run depends on, beside its base and its data.

    Attributes:
        loop: steps, rates, precision.
        batch_size: images a micro-batch.
        rank: of the pairs in the encoder.
        image_size: side of the input in pixels; None takes the base's.
        channels: of the U-Net at full resolution; 7,763,041 parameters with 32, 1,942,577 with 16.
        depth: levels of the U-Net below full resolution.
        weights: of the parts of the loss.
        selection: how points are picked, in training and on the device. In training each batch takes from one to all of
            its positive ones, as many negative ones at most, so that the model does not depend on their number.
        splitting: how the bundle parts touching objects; None where they do not count.
        warm_start: steps in which points are picked from the labels: those of a new U-Net are noise.
        augmentation: of each image.
        validation_cases: of each set's `val.txt`, the first so many.
    """

    loop: LoopConfig = field(
        default_factory=lambda: LoopConfig(
            steps=6000,
            learning_rate=1e-4,
            warmup_steps=100,
            rate_factors=((GENERATOR, 10.0),),
            validate_every=300,
            save_every=300,
        )
    )
    batch_size: int = 4
    rank: int = 4
    image_size: int | None = None
    channels: int = 32
    depth: int = 4
    weights: SacWeights = field(default_factory=SacWeights)
    selection: PointSelection = field(default_factory=PointSelection)
    splitting: Splitting | None = field(default_factory=Splitting)
    warm_start: int = 300
    augmentation: CellAugmentation = field(default_factory=CellAugmentation)
    validation_cases: int = 24

    def __post_init__(self) -> None:
        problems = []
        for name in ("batch_size", "rank", "image_size", "channels", "depth", "validation_cases"):
            value = getattr(self, name)
            if value is not None and (type(value) is not int or value < 1):
                problems.append(f"{name}: expected a whole number of at least 1, got {value!r}")
        if type(self.warm_start) is not int or self.warm_start < 0:
            problems.append(f"warm_start: expected a number of steps from 0 on, got {self.warm_start!r}")
        if problems:
            raise ValueError("\n  ".join(["the recipe is not valid:", *problems]))

    @property
    def tuning(self) -> Tuning:
        """What of the model is trained: pairs in the encoder (see `Tuning.fitted`), the whole decoder, the U-Net."""
        return Tuning(LoraConfig(self.rank), ("mask_decoder.*", GENERATOR))

    def config(self, base: SamConfig) -> SamConfig:
        """The shape of the model: the base's with a U-Net, whose input is the encoder's.

        Raises:
            CheckpointError: Base or U-Net cannot have this input size.
        """
        shape = resize_config(base, self.image_size)
        side = shape.encoder.image_size
        try:
            return replace(shape, auto_prompt=AutoPromptConfig(side, self.channels, self.depth))
        except ValueError as error:
            raise CheckpointError(f"the U-Net cannot have an input of {side} x {side} pixels: {error}") from error

    def to_dict(self) -> dict[str, Any]:
        """The recipe as JSON types."""
        return {
            "recipe": "sac",
            "loop": self.loop.to_dict(),
            "batch_size": self.batch_size,
            "rank": self.rank,
            "image_size": self.image_size,
            "channels": self.channels,
            "depth": self.depth,
            "weights": asdict(self.weights),
            "selection": self.selection.to_dict(),
            "splitting": self.splitting and self.splitting.to_dict(),
            "warm_start": self.warm_start,
            "augmentation": self.augmentation.to_dict(),
            "validation_cases": self.validation_cases,
        }

    @classmethod
    def from_dict(cls, values: object) -> "SacRecipe":
        """Rebuild a recipe from what `to_dict` returned.

        Raises:
            ValueError: A field is missing, unknown or not valid.
        """
        given = dict(expect_fields("recipe", values, {"recipe", *cls.__dataclass_fields__}))
        if given.pop("recipe") != "sac":
            raise ValueError(f"recipe: expected sac, got {values['recipe']!r}")  # type: ignore[index]
        weights = expect_fields("weights", given["weights"], set(SacWeights.__dataclass_fields__))
        given |= {
            "loop": LoopConfig.from_dict(given["loop"]),
            "weights": SacWeights(**weights),
            "selection": PointSelection.from_dict(given["selection"]),
            "splitting": None if given["splitting"] is None else Splitting.from_dict(given["splitting"]),
            "augmentation": CellAugmentation.from_dict(given["augmentation"]),
        }
        return cls(**given)


def train_sac(
    recipe: SacRecipe,
    base: Base,
    sets: Sequence[Path],
    run: Path,
    *,
    licence: Mapping[str, Any],
    show_progress: bool = True,
) -> dict[str, Any]:
    """Train a model that prompts itself, or go on with a run that was interrupted.

    Args:
        recipe: What to do.
        base: What to start from, a promptable model.
        sets: Folders, each with `train.txt` and `val.txt`; all that is labelled, classes or instances, is foreground.
        run: The run's folder; `best/` becomes the merged checkpoint, `adapter/` what was learned.
        licence: Of the weights.
        show_progress: Whether to draw a progress bar on stderr.

    Returns:
        What `loop.fit` returns.

    Raises:
        DataError: A set is missing or malformed, or nothing in it is labelled.
        CheckpointError: Base or U-Net cannot have this input size, or do not go together.
        TrainingError: The run belongs to another configuration, is in use, or the loss is not finite.
    """
    config = recipe.config(SamConfig.from_dict(base.checkpoint.model))
    preprocessing = replace(base.checkpoint.preprocessing, input_size=config.encoder.image_size)
    data = read_semantic_data(sets, preprocessing.intensity, None, None, union=True, seed=recipe.loop.seed)
    source = LabelSource(
        data.draw,
        preprocessing,
        recipe.augmentation,
        classes=1,
        label_side=4 * config.encoder.embedding_side,
        seed=recipe.loop.seed,
    )
    facts = {**recipe.to_dict(), "sets": data.summary, "data_sha256": set_digests(sets)}
    tuned = TunedRun(base, recipe.tuning.fitted(config), _describe(recipe, base, config, licence), recipe.loop, facts)

    def batch_of(number: int) -> tuple[bool, LabelBatch]:
        # Of what number a micro-step is tells whether the U-Net is still new.
        warm = number < recipe.warm_start * recipe.loop.accumulate
        return warm, source.batch(number, recipe.batch_size)

    def loss_of(model: Sam, batch: tuple[bool, LabelBatch], generator: torch.Generator) -> dict[str, torch.Tensor]:
        warm, samples = batch
        return sac_loss(model, samples, recipe.selection, recipe.weights, preprocessing, generator, from_labels=warm)

    return tuned.fit(
        tuned.start(),
        batch_of=batch_of,
        loss_of=loss_of,
        validate=foreground_validation(sets, tuned.description, recipe.validation_cases),
        run=run,
        show_progress=show_progress,
    )


def _describe(recipe: SacRecipe, base: Base, config: SamConfig, licence: Mapping[str, Any]) -> Checkpoint:
    known = base.checkpoint
    prompts = {
        **known.prompts,
        "trained": ["points"],
        "zoom": None,
        "selection": recipe.selection.to_dict(),
        "splitting": recipe.splitting and recipe.splitting.to_dict(),
    }
    return replace(
        known,
        model=config.to_dict(),
        geometry={**known.geometry, "input_size": config.encoder.image_size},
        prompts=prompts,
        classes={},
        licence=dict(licence),
        lineage={},
        state={},
        task=AUTO,
    )
