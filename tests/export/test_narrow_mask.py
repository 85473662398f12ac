"""The narrow mask prompt adds to the image what the plain one adds."""

import pytest
import torch
from torch import nn

from samsdk_export.narrow_mask import CentredNorm, NarrowMask
from samsdk_training.models.layer_norm import LayerNorm2d
from samsdk_training.models.prompt_encoder import PromptEncoder


@pytest.mark.parametrize("channels", [16, 8])
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_narrow_channels_times_their_rows_are_the_dense_embedding(
    channels: int, dtype: torch.dtype, bound: float
) -> None:
    torch.manual_seed(0)
    encoder = PromptEncoder(32, 5, 80, channels).to(dtype).eval()
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    masks, has = torch.randn(3, 1, 20, 20, dtype=dtype) * 8, torch.tensor([1.0, 0.0, 1.0], dtype=dtype)
    with torch.no_grad():
        narrow = NarrowMask(encoder)
        mine = (narrow(masks, has).transpose(1, 2) @ narrow.rows).transpose(1, 2).reshape(3, 32, 5, 5)
        wanted = encoder.mask_downscaling(masks)
        wanted[1] = encoder.no_mask_embed.weight.reshape(32, 1, 1)
    torch.testing.assert_close(mine, wanted, rtol=0, atol=bound * wanted.abs().max().item())


def test_a_mask_of_one_value_is_normalised_as_trained() -> None:
    """Where nothing varies, the normalisation divides by the root of its epsilon."""
    encoder = PromptEncoder(16, 4, 64, 8).double().eval()
    masks = torch.full((1, 1, 16, 16), -30.0, dtype=torch.float64)
    with torch.no_grad():
        narrow = NarrowMask(encoder)
        mine = (narrow(masks, torch.ones(1, dtype=torch.float64)).transpose(1, 2) @ narrow.rows).transpose(1, 2)
        wanted = encoder.mask_downscaling(masks).flatten(2)
    torch.testing.assert_close(mine, wanted, rtol=0, atol=1e-11)


def test_another_normalisation_is_refused() -> None:
    with pytest.raises(TypeError, match="expected a normalisation over channels"):
        CentredNorm(torch.ones(2, 2), torch.zeros(2), nn.BatchNorm2d(2), copies=1)
    CentredNorm(torch.ones(2, 2), torch.zeros(2), LayerNorm2d(2), copies=1)
