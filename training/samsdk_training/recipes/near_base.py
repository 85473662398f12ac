"""What keeps a fine-tuned model near its base: blending the two, and steps that suit the size of what they change.

The blend after Wortsman et al., Robust fine-tuning of zero-shot models (WiSE-FT), CVPR 2022.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import torch
from torch import Tensor

from samsdk_training.loop import LoopConfig
from samsdk_training.models.sam import Sam
from samsdk_training.models.sam_config import SamConfig
from samsdk_training.recipes.tuned import TunedRun
from samsdk_training.tuning import Base

# Adafactor's: tensors of zeros have to move too.
_SMALLEST_SIZE: Final = 1e-3


@dataclass(frozen=True)
class BlendedRun(TunedRun):
    """A run that keeps only a share of what it learned, and the base's weights for the rest.

    Attributes:
        share: of what was learned; 1 keeps all of it.
    """

    share: float = 1.0

    def save(self, model: Sam, folder: Path) -> None:
        """Write the blend's merged checkpoint into a folder, and its adapter into `adapter/` beside it."""
        with self.blended(model):
            super().save(model, folder)

    @contextmanager
    def blended(self, model: Sam) -> Iterator[None]:
        """Give a model the blend's weights while the block runs; afterwards it has its own, bit for bit.

        A pair's product is shared by its B; what is trained whole is interpolated.
        """
        base = self.base.tensors(SamConfig.from_dict(self.description.model))
        own: dict[Tensor, Tensor] = {}
        with torch.no_grad():
            for key, tensor in model.state_dict(keep_vars=True).items():
                if key.endswith(".b") and ".parametrizations." in key:
                    own[tensor] = tensor.detach().clone()
                    tensor.mul_(self.share)
                elif self.tuning.is_whole(key) and tensor.is_floating_point():
                    own[tensor] = tensor.detach().clone()
                    tensor.copy_(torch.lerp(base[key].to(tensor), tensor, self.share))
        try:
            yield
        finally:
            with torch.no_grad():
                for tensor, values in own.items():
                    tensor.copy_(values)


def relative_rates(loop: LoopConfig, base: Base) -> LoopConfig:
    """Make the rate of each of a base's tensors proportional to the root mean square of its numbers.

    Adam moves every number by about the rate, whatever its size. Where batch norms were merged into convolutions, the
    sizes differ by a factor of five hundred: the rate that suits most tensors turns others over in a hundred steps,
    and with them what the base knew of other images. After Adafactor's relative step sizes (Shazeer and Stern, 2018).

    Args:
        loop: its own `rate_factors` come first.
        base: what is trained.

    Returns:
        The loop with more `rate_factors`; pairs of low-rank weights have none.
    """
    sizes = {
        key: float(tensor.square().mean().sqrt())
        for key, tensor in base.checkpoint.state.items()
        if tensor.is_floating_point()
    }
    factors = tuple((key, max(size, _SMALLEST_SIZE)) for key, size in sizes.items())
    return replace(loop, rate_factors=(*loop.rate_factors, *factors))
