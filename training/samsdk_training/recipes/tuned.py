"""What the recipes that tune a base have in common: start, training, and the files that come of it.

A run's `best/` is the merged checkpoint, ready for `samsdk export`; `adapter/` is what was learned, without the base.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from samsdk_training.adapter_file import LoraAdapter, save_adapter
from samsdk_training.checkpoint_tasks import task_problems
from samsdk_training.checkpoints import Checkpoint, CheckpointError, save_checkpoint
from samsdk_training.loop import LoopConfig, fit
from samsdk_training.merging import merge_adapter
from samsdk_training.models.sam import Sam
from samsdk_training.models.sam_config import SamConfig
from samsdk_training.tuning import Base, Tuning

ADAPTER_FOLDER = "adapter"
Batch = TypeVar("Batch")


@dataclass(frozen=True)
class TunedRun:
    """A base, what of it is trained, and what comes of it.

    Attributes:
        base: Whose weights the training starts from.
        tuning: What is trained.
        description: All that the trained checkpoint is but for its tensors, which are not looked at: its `model` may
            differ from the base's as `fit_checkpoint` allows.
        loop: How to train.
        recipe: What else the run depends on, as JSON types, for `config.json` and the checkpoint's lineage.
    """

    base: Base
    tuning: Tuning
    description: Checkpoint
    loop: LoopConfig
    recipe: Mapping[str, Any]

    def start(self) -> Sam:
        """Build the model that training starts with; one seed gives one model.

        Raises:
            CheckpointError: Base, shape and task do not go together.
            LoraError: See `tuning.tune`.
        """
        known = self.description
        problems = task_problems(known.task, SamConfig.from_dict(known.model), known.prompts, known.classes)
        if problems:
            raise CheckpointError("the base does not go with the recipe:", problems)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.loop.seed)
            return self.base.tuned(self.tuning, SamConfig.from_dict(self.description.model))

    def fit(
        self,
        model: Sam,
        *,
        batch_of: Callable[[int], Batch],
        loss_of: Callable[[Sam, Batch, torch.Generator], dict[str, Tensor]],
        validate: Callable[[Sam], dict[str, float]],
        run: Path,
        score: str = "dice",
        show_progress: bool = True,
    ) -> dict[str, Any]:
        """Train, or go on with a run that was interrupted; arguments and result as `loop.fit`.

        Raises:
            TrainingError: See `loop.fit`.
            LoraError: Something was trained that was not to be.
        """

        def save_best(trained: nn.Module, folder: Path) -> None:
            self.save(as_sam(trained), folder)

        return fit(
            model,
            batch_of=batch_of,
            loss_of=lambda trained, batch, generator: loss_of(as_sam(trained), batch, generator),
            validate=lambda trained: validate(as_sam(trained)),
            save_best=save_best,
            run=run,
            config=self.loop,
            score=score,
            recipe={**self.recipe, "base": self.base.sha256, "tuning": self.tuning.to_dict()},
            progress=show_progress,
        )

    def save(self, model: Sam, folder: Path) -> None:
        """Write the merged checkpoint into a folder, and the adapter into `adapter/` beside it."""
        lineage = {**self.description.lineage, **self.recipe, "training": self.loop.to_dict()}
        checkpoint = replace(self.description, state=model.state_dict(), lineage=lineage)
        adapter = LoraAdapter.of(checkpoint, self.tuning, self.base)
        save_adapter(adapter, folder.parent / ADAPTER_FOLDER)
        save_checkpoint(merge_adapter(adapter, self.base)[0], folder)


def as_sam(model: nn.Module) -> Sam:
    """The model as what it is.

    Raises:
        TypeError: It is no `Sam`.
    """
    if not isinstance(model, Sam):
        raise TypeError(f"expected a Sam, got {type(model).__name__}")
    return model
