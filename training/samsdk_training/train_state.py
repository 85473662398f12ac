"""What a training run needs to go on after it was killed: weights, optimiser moments, averages and progress."""

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from samsdk.errors import SamsdkError
from samsdk.io.atomic import atomic_folder
from samsdk_training.tensor_file import save_tensors

FORMAT = 1
TENSORS_FILE = "state.safetensors"
JSON_FILE = "state.json"


class TrainingError(SamsdkError, RuntimeError):
    """A run cannot start, go on, or be resumed."""


@dataclass
class Progress:
    """How far a run has come.

    Attributes:
        step: optimiser steps that are done.
        best_score: highest validation score so far; None before the first validation.
        best_step: the step that it was reached at.
        since_best: validations since then.
    """

    step: int = 0
    best_score: float | None = None
    best_step: int | None = None
    since_best: int = 0


class WeightAverage:
    """An exponential moving average of tensors, `average = decay * average + (1 - decay) * tensor`.

    The loop averages the trained parameters and the statistics of batch norms: averaged weights with the statistics of
    the last weights would be a model that never existed. The decay of the n-th update is at most (1 + n) / (10 + n), so
    that the random weights that a run starts with are soon forgotten.
    """

    def __init__(self, tensors: Mapping[str, Tensor], decay: float) -> None:
        self.decay = decay
        self._own = dict(tensors)
        self.tensors = {name: tensor.detach().clone() for name, tensor in tensors.items()}

    @torch.no_grad()
    def update(self, number: int) -> None:
        """Take in the present tensors, in the update of this number, counted from 1."""
        decay = min(self.decay, (1 + number) / (10 + number))
        for name, tensor in self._own.items():
            # Unlike the sum of two products, this leaves what never changes bit for bit as it is.
            self.tensors[name].lerp_(tensor, 1 - decay)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Let the model have the averages while the block runs, and its own weights, bit for bit, afterwards."""
        own = {name: tensor.detach().clone() for name, tensor in self._own.items()}
        self._write(self.tensors)
        try:
            yield
        finally:
            self._write(own)

    @torch.no_grad()
    def _write(self, tensors: Mapping[str, Tensor]) -> None:
        for name, tensor in self._own.items():
            tensor.copy_(tensors[name])


@dataclass
class TrainState:
    """The moving parts of a run; `load` changes them in place.

    Attributes:
        model: all of it is saved, frozen parts too, so that a state does not depend on what it was started from.
        parameters: the trained ones by name, in the order that the optimiser has them.
        optimiser: of the parameters, its groups in their order.
        average: of the weights, if the run keeps one.
        progress: of the run.
    """

    model: nn.Module
    parameters: dict[str, nn.Parameter]
    optimiser: torch.optim.Optimizer
    average: WeightAverage | None = None
    progress: Progress = field(default_factory=Progress)

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write the state as safetensors and JSON; the folder holds all of a state at any time.

        Raises:
            OutputError: the system refuses the write.
        """
        tensors = {f"model/{key}": value for key, value in self.model.state_dict().items()}
        for name, parameter in self.parameters.items():
            for key, value in self.optimiser.state.get(parameter, {}).items():
                tensors[f"optimiser/{key}/{name}"] = value
        if self.average:
            tensors |= {f"average/{name}": value for name, value in self.average.tensors.items()}
        with atomic_folder(folder) as partial:
            save_tensors(tensors, partial / TENSORS_FILE)
            text = json.dumps({"format": FORMAT, **asdict(self.progress), "trained": list(self.parameters)}, indent=2)
            (partial / JSON_FILE).write_text(text + "\n", encoding="utf-8")

    def load(self, folder: str | os.PathLike[str]) -> None:
        """Bring model, optimiser, average and progress back to what was saved.

        Raises:
            TrainingError: the state is damaged, of an unknown format, or of another model.
        """
        source = Path(folder)
        try:
            content = json.loads((source / JSON_FILE).read_bytes())
            tensors = load_file(source / TENSORS_FILE)
            if content.pop("format") != FORMAT:
                raise TrainingError(f"the state {str(source)!r} is not of format {FORMAT}")
            trained = content.pop("trained")
            progress = Progress(**content)
        except (OSError, ValueError, KeyError, TypeError, AttributeError, SafetensorError) as error:
            raise TrainingError(f"the state {str(source)!r} cannot be read: {error}") from error
        if trained != list(self.parameters):
            differ = sorted(set(trained) ^ self.parameters.keys())
            raise TrainingError(f"the state {str(source)!r} was saved with other parameters trained: {differ[:10]}")
        try:
            self.model.load_state_dict(_below("model/", tensors))
            self._load_optimiser(_below("optimiser/", tensors))
            self._load_average(_below("average/", tensors))
        except (RuntimeError, KeyError) as error:
            raise TrainingError(f"the state {str(source)!r} is not of this model: {error}") from error
        self.progress = progress

    def _load_optimiser(self, tensors: Mapping[str, Tensor]) -> None:
        state: dict[int, dict[str, Any]] = {}
        index = {name: number for number, name in enumerate(self.parameters)}
        for path, value in tensors.items():
            key, _, name = path.partition("/")
            state.setdefault(index[name], {})[key] = value
        self.optimiser.load_state_dict({**self.optimiser.state_dict(), "state": state})

    def _load_average(self, tensors: Mapping[str, Tensor]) -> None:
        if self.average:
            for name, tensor in self.average.tensors.items():
                tensor.copy_(tensors[name])


def _below(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
