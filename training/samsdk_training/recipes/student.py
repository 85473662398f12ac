"""Recipe `student`: a small promptable model for processors without an accelerator, trained with prompts in the loop.

Trained from scratch on masks: simulated users give boxes and points, and correct the answers (`interaction`).
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from samsdk.transforms import Preprocessing
from samsdk.zoom import Zoom
from samsdk_training.augment import Augmentation
from samsdk_training.checkpoints import Checkpoint, CheckpointError, load_checkpoint, save_checkpoint, state_problems
from samsdk_training.data_digest import set_digests
from samsdk_training.interaction import InteractionConfig, interactive_loss
from samsdk_training.loop import LoopConfig, fit
from samsdk_training.models.sam import Sam, build_sam
from samsdk_training.models.sam_config import SamConfig, student_config
from samsdk_training.recipes.validation import SHEET, prompted_validation
from samsdk_training.samples import SampleSet, SampleSource
from samsdk_training.split import VALIDATION_LIST
from samsdk_training.torch_predictor import TorchPredictor

logger = logging.getLogger(__name__)
Batch = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class StudentRecipe:
    """All that a run depends on, beside its data.

    Attributes:
        loop: steps, rates, precision.
        model: shape of the student.
        interaction: how simulated users prompt.
        augmentation: how images are varied.
        batch_size: objects in a micro-batch, each from an image of its own.
        smallest: objects of fewer pixels are not trained on.
        validation_images: of each validation set, the first of its list.
        zoom: the second look that users are recommended, and that validation takes; None looks once.
    """

    loop: LoopConfig
    model: SamConfig = field(default_factory=student_config)
    interaction: InteractionConfig = field(default_factory=InteractionConfig)
    augmentation: Augmentation = field(default_factory=Augmentation)
    batch_size: int = 16
    smallest: int = 30
    validation_images: int = 4
    zoom: Zoom | None = field(default_factory=Zoom)

    @property
    def preprocessing(self) -> Preprocessing:
        """LiteMedSAM's, without its cut of box corners to whole pixels: small objects need the fractions."""
        return Preprocessing(input_size=self.model.encoder.image_size)

    def to_dict(self) -> dict[str, Any]:
        """The recipe as JSON holds it."""
        return {
            "recipe": "student",
            "model": self.model.to_dict(),
            "loop": self.loop.to_dict(),
            "interaction": asdict(self.interaction),
            "augmentation": self.augmentation.to_dict(),
            "batch_size": self.batch_size,
            "smallest": self.smallest,
            "zoom": None if self.zoom is None else asdict(self.zoom),
        }


def train_student(
    recipe: StudentRecipe,
    sets: Sequence[SampleSet],
    validation: Sequence[Path],
    run: Path,
    *,
    licence: Mapping[str, Any],
    start: Path | None = None,
    show_progress: bool = True,
) -> dict[str, Any]:
    """Train a student, or go on with a run that was interrupted.

    Args:
        recipe: what to do.
        sets: where the training samples come from.
        validation: sets whose `val.txt` picks the best weights.
        run: the run's folder; `run/best` becomes a checkpoint.
        licence: of the weights, with the attributions that the sets ask for.
        start: folder of a checkpoint of the same shape whose weights the training starts from; None starts anew.
        show_progress: whether to draw a progress bar on stderr.

    Returns:
        What `loop.fit` returns.

    Raises:
        DataError: a set is missing or malformed.
        TrainingError: the run belongs to another configuration, or the loss is not finite.
        CheckpointError: the start is no checkpoint, or of another shape.
    """
    model, origin = _start(recipe, start)
    source = SampleSource(
        sets, recipe.preprocessing, recipe.augmentation, seed=recipe.loop.seed, smallest=recipe.smallest
    )
    for name, row in source.summary().items():
        logger.info("%s: %d images, %d objects, share %.3f", name, row["images"], row["objects"], row["share"])

    def batch_of(number: int) -> Batch:
        batch = source.batch(number, recipe.batch_size)
        return torch.from_numpy(batch.images), torch.from_numpy(batch.masks)

    def loss_of(model: nn.Module, batch: Batch, generator: torch.Generator) -> dict[str, Tensor]:
        return interactive_loss(_sam(model), *batch, generator, recipe.interaction)

    validate = prompted_validation(
        validation,
        lambda trained: TorchPredictor(trained, recipe.preprocessing),
        images=recipe.validation_images,
        sheet=run / SHEET,
        zoom=recipe.zoom,
    )
    digests = set_digests(validation, [VALIDATION_LIST])
    for one in sets:
        digests |= set_digests([Path(one.folder)], [one.list_name])
    lineage = {**recipe.to_dict(), "sets": list(source.summary()), **origin}

    def save_best(model: nn.Module, folder: Path) -> None:
        save_checkpoint(_checkpoint(_sam(model), recipe, lineage, licence), folder)

    return fit(
        model,
        batch_of=batch_of,
        loss_of=loss_of,
        validate=lambda trained: validate(_sam(trained)),
        run=run,
        config=recipe.loop,
        save_best=save_best,
        recipe={**recipe.to_dict(), "sets": source.summary(), "data_sha256": digests, **origin},
        progress=show_progress,
    )


def _start(recipe: StudentRecipe, start: Path | None) -> tuple[Sam, dict[str, Any]]:
    """The model that training starts with, and what the record says of where it comes from."""
    torch.manual_seed(recipe.loop.seed)
    model = build_sam(recipe.model)
    if start is None:
        return model, {}
    checkpoint = load_checkpoint(start)
    problems = state_problems(recipe.model.to_dict(), checkpoint.state)
    if problems:
        raise CheckpointError(f"{start} is a checkpoint of another shape than the student's:", problems)
    model.load_state_dict(checkpoint.state)
    return model, {"start": checkpoint.lineage}


def _sam(model: nn.Module) -> Sam:
    if not isinstance(model, Sam):
        raise TypeError(f"expected a Sam, got {type(model).__name__}")
    return model


def _checkpoint(
    model: Sam, recipe: StudentRecipe, lineage: Mapping[str, Any], licence: Mapping[str, Any]
) -> Checkpoint:
    prompts = {
        "kinds": ["points", "box", "mask"],
        "trained": ["points", "box", "mask"],
        "mask": "logits",
        "zoom": None if recipe.zoom is None else asdict(recipe.zoom),
    }
    return Checkpoint.of(model, recipe.model, recipe.preprocessing, prompts=prompts, licence=licence, lineage=lineage)
