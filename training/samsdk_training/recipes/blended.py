"""What keeps a fine-tuned model near its base: a run that saves a blend of the two.

After Wortsman et al., Robust fine-tuning of zero-shot models (WiSE-FT), CVPR 2022, with a share for the encoder and one
for all else.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch
from torch import Tensor

from samsdk_training.models.sam import Sam
from samsdk_training.models.sam_config import SamConfig
from samsdk_training.recipes.tuned import TunedRun

_ENCODER: Final = "image_encoder."


@dataclass(frozen=True)
class BlendedRun(TunedRun):
    """A run that keeps only a share of what it learned, and the base's weights for the rest.

    Attributes:
        share: of what prompt encoder and decoder learned; 1 keeps all of it.
        encoder_share: of what the image encoder learned.
    """

    share: float = 1.0
    encoder_share: float = 1.0

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
                share = self.encoder_share if key.startswith(_ENCODER) else self.share
                if key.endswith(".b") and ".parametrizations." in key:
                    own[tensor] = tensor.detach().clone()
                    tensor.mul_(share)
                elif self.tuning.is_whole(key) and tensor.is_floating_point():
                    own[tensor] = tensor.detach().clone()
                    tensor.copy_(torch.lerp(base[key].to(tensor), tensor, share))
        try:
            yield
        finally:
            with torch.no_grad():
                for tensor, values in own.items():
                    tensor.copy_(values)
