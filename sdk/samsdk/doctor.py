"""The examination of a bundle on the device that it is meant to run on."""

from typing import Any

from samsdk.backends import available_devices
from samsdk.bundle import Bundle
from samsdk.environment import describe_environment
from samsdk.errors import SamsdkError
from samsdk.golden import measure_parity
from samsdk.predictor import Predictor


def examine(bundle: Bundle, *, device: str | None = None) -> dict[str, Any]:
    """Replay a bundle's golden prompts on the devices of this process.

    Args:
        bundle: an opened bundle, whose files were thereby checked.
        device: the only one to examine, see `samsdk.load`; None examines all that are there.

    Returns:
        `passed`, the bundle's identity, the environment, and `checks`: one entry per tier and device with `passed`,
        `detail` and, where it ran, the measurements as `parity`.
    """
    devices = available_devices() if device is None else [device]
    checks = [_check(bundle, tier, name) for tier in bundle.manifest.tiers for name in devices]
    return {
        "passed": all(check["passed"] for check in checks),
        "bundle": bundle.identity,
        "path": str(bundle.path),
        "environment": describe_environment(),
        "checks": checks,
    }


def _check(bundle: Bundle, tier: str, device: str) -> dict[str, Any]:
    try:
        parity = measure_parity(Predictor(bundle, device=device, tier=tier))
    except SamsdkError as error:
        return {"tier": tier, "device": device, "passed": False, "detail": str(error)}
    detail = (
        f"{parity.cases} golden prompts, largest logit difference {parity.max_logit_difference:.1e}, "
        f"mean mask IoU {parity.mean_mask_iou:.6f}"
    )
    return {"tier": tier, "device": device, "passed": parity.passed, "detail": detail, "parity": parity.to_dict()}
