"""Where training runs: one device, or one device for each of several processes that train the same model together."""

import importlib
import logging
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from samsdk.errors import MissingExtraError

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Placement:
    """One process's device and its place among the processes.

    Gradients are summed explicitly instead of by a wrapper around the model, so that a loss may call any method of the
    model, any number of times, and leave out parameters.

    Attributes:
        device: of this process.
        accelerator: the `accelerate.Accelerator` that connects several processes; None where there is one.
    """

    device: torch.device
    accelerator: Any = None

    @property
    def processes(self) -> int:
        """How many processes train together."""
        return int(self.accelerator.num_processes) if self.accelerator else 1

    @property
    def index(self) -> int:
        """This process's number, from 0."""
        return int(self.accelerator.process_index) if self.accelerator else 0

    @property
    def main(self) -> bool:
        """Whether this process writes the files."""
        return self.index == 0

    def wait(self) -> None:
        """Return when every process has come here."""
        if self.accelerator:
            self.accelerator.wait_for_everyone()

    def share_weights(self, model: nn.Module) -> None:
        """Give every process the first one's parameters and buffers."""
        if self.accelerator:
            broadcast = importlib.import_module("accelerate.utils").broadcast
            for tensor in model.state_dict().values():
                tensor.copy_(broadcast(tensor.contiguous()))

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum of every process's tensor."""
        return self.accelerator.reduce(tensor, reduction="sum") if self.accelerator else tensor

    def sum_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Replace each gradient by the sum of every process's; one that no process has stays None."""
        if not self.accelerator:
            return
        trained = list(parameters)
        has = self.sum(torch.tensor([float(one.grad is not None) for one in trained], device=self.device)).tolist()
        used = [one for one, count in zip(trained, has, strict=True) if count]
        if not used:
            return
        # One transfer of everything: hundreds of small ones would wait for one another.
        flat = torch.cat([(torch.zeros_like(one) if one.grad is None else one.grad).flatten() for one in used])
        parts = torch.split(self.sum(flat), [one.numel() for one in used])
        for one, part in zip(used, parts, strict=True):
            one.grad = part.view(one.shape).to(one.dtype)


def place(device: str = "auto") -> Placement:
    """Choose the device of this process.

    Started by `accelerate launch` or `torchrun` with several processes, they are connected through accelerate; else
    plain torch does, so that one process gives the same numbers whether accelerate is installed or not.

    Args:
        device: a torch device, or `auto` for this machine's accelerator, the CPU where it has none.

    Raises:
        MissingExtraError: several processes were started, but accelerate is not installed.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        try:
            accelerate = importlib.import_module("accelerate")
        except ImportError as error:
            raise MissingExtraError(
                "training with several processes needs accelerate; install it with: pip install 'samsdk[train]'"
            ) from error
        accelerator = accelerate.Accelerator(cpu=device == "cpu", mixed_precision="no")
        return Placement(accelerator.device, accelerator)
    if device != "auto":
        return Placement(torch.device(device))
    found = torch.accelerator.current_accelerator(check_available=True)
    return Placement(found or torch.device("cpu"))


def warn_if_emulated(device: torch.device) -> None:
    """Log a warning where bfloat16 is not the processor's own, and so costs many times what it should save.

    Args:
        device: where the model runs; only processors (`cpu`) are looked at.
    """
    # Of builds without oneDNN nothing is known.
    own = getattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", None)
    if device.type == "cpu" and own is not None and not own():
        logger.warning(
            "this processor has no bfloat16 of its own: steps take about ten times as long as in float32; stop and "
            "train with --precision float32 in a new run folder instead"
        )


def to_device(batch: Any, device: torch.device) -> Any:
    """Move the tensors of a batch, also those in lists, tuples and mappings; whatever has no `to` stays as it is."""
    if hasattr(batch, "to"):
        return batch.to(device, non_blocking=True)
    if isinstance(batch, Mapping):
        return {key: to_device(value, device) for key, value in batch.items()}
    if isinstance(batch, tuple) and hasattr(batch, "_fields"):
        return type(batch)(*(to_device(value, device) for value in batch))
    if isinstance(batch, list | tuple):
        return type(batch)(to_device(value, device) for value in batch)
    return batch
