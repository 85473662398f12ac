import json
import sys
from dataclasses import replace

import pytest
import torch
from monai.networks.nets import SwinUNETR

from samsdk.errors import MissingExtraError
from samsdk_training.models.swin_unetr import SwinUnetrConfig
from samsdk_training.models.volume import build_volume_model, volume_config_from_dict

SMALL = SwinUnetrConfig(crop=(32, 32, 64), classes=3, feature_size=12)


@pytest.mark.parametrize(("feature_size", "millions"), [(12, 4.1), (24, 15.7), (48, 62.2)])
def test_sizes_are_the_published_ones(feature_size: int, millions: float) -> None:
    with torch.device("meta"):
        model = build_volume_model(SwinUnetrConfig(classes=14, feature_size=feature_size))
    assert {one.device.type for one in model.parameters()} == {"meta"}
    assert sum(one.numel() for one in model.parameters()) / 1e6 == pytest.approx(millions, abs=0.05)


def test_it_is_monais() -> None:
    torch.manual_seed(0)
    ours = build_volume_model(SMALL).eval()
    theirs = SwinUNETR(in_channels=1, out_channels=3, feature_size=12).eval()
    theirs.load_state_dict(ours.state_dict(), strict=True)
    crop = torch.randn(1, 1, *SMALL.crop, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        assert torch.equal(ours(crop), theirs(crop))


def test_a_configuration_survives_json() -> None:
    assert volume_config_from_dict(json.loads(json.dumps(SMALL.to_dict()))) == SMALL
    assert SMALL.to_dict()["architecture"] == "swin_unetr"
    with pytest.raises(ValueError, match="model: feature_size: expected a positive number, got '12'"):
        volume_config_from_dict({**SMALL.to_dict(), "feature_size": "12"})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"crop": (32, 48, 64)}, r"multiples of 32, .* got \[32, 48, 64\]"),
        ({"crop": (32, 32, 32)}, "not all of them 32 itself"),
        ({"crop": (64, 64)}, "crop must be three multiples"),
        ({"classes": 1}, "classes must be at least 2"),
        ({"feature_size": 16}, "feature_size must be a multiple of 12, got 16"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(change, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(SMALL, **change)


def test_the_smallest_crop_can_be_trained() -> None:
    model = build_volume_model(SMALL)
    model(torch.randn(1, 1, *SMALL.crop, generator=torch.Generator().manual_seed(1))).square().mean().backward()
    assert all(one.grad is not None and one.grad.isfinite().all() for one in model.parameters())


@pytest.mark.parametrize("missing", ["einops", "monai.networks.nets.swin_unetr"])
def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch, missing: str) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(MissingExtraError, match=rf"SwinUNETR needs {missing}: pip install 'samsdk\[train\]'"):
        build_volume_model(SMALL)
