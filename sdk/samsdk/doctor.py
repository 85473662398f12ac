"""The examination of a bundle on the device that it is meant to run on."""

from typing import Any

from samsdk.backends import available_devices, backend_name, engine_name, gpu_target
from samsdk.backends.options import BackendOptions
from samsdk.bundle import Bundle
from samsdk.certificates import complete, find_certificate, keep_certificate
from samsdk.environment import describe_environment, installation_problems
from samsdk.errors import BundleError, SamsdkError
from samsdk.manifest import VOLUME
from samsdk.opening import predictor_for
from samsdk.parity import measure_bundle


def examine(bundle: Bundle, *, device: str | None = None, certify: bool = False) -> dict[str, Any]:
    """Replay a bundle's golden prompts on the devices of this process.

    Args:
        bundle: an opened bundle, whose files were thereby checked.
        device: the only one to examine, see `samsdk.load`; None or `auto` examines all that are there.
        certify: keep what is measured as this device's certificates: the runtime then accepts what passed, and refuses
            what failed, whatever the exporting machine found.

    Returns:
        `passed`, the bundle's identity, the environment, `problems` of the installation, and `checks`: one entry per
        tier and device that the tier has a plan for, with `passed`, `certified` (the runtime accepts it), `detail` and,
        where it ran, the measurements as `parity`.

    Raises:
        BundleError: no tier has a plan for the device.
        OutputError: the certificates cannot be kept.
    """
    named = None if device == "auto" else device
    devices = available_devices() if named is None else [named]
    fitting = [(tier, name) for tier in bundle.manifest.tiers for name in devices if _fits(bundle, tier, name)]
    checks = [_check(bundle, tier, name, certify) for tier, name in fitting]
    if not checks:
        where = named or "any device that is here"
        raise BundleError(f"bundle {bundle.manifest.name!r} has no plan for {where}; nothing was examined")
    problems = installation_problems()
    return {
        "passed": not problems and all(check["passed"] for check in checks),
        "bundle": bundle.identity,
        "path": str(bundle.path),
        "environment": describe_environment(),
        "problems": problems,
        "checks": checks,
    }


def _fits(bundle: Bundle, tier: str, device: str) -> bool:
    try:
        bundle.manifest.plan(tier, backend_name(device), gpu_target(device))
    except BundleError:
        return False
    except SamsdkError:
        # The device is not there: that is a finding, for `_check` to report.
        return True
    return True


def _check(bundle: Bundle, tier: str, device: str, certify: bool) -> dict[str, Any]:
    check: dict[str, Any] = {"tier": tier, "device": device, "passed": False, "certified": False}
    try:
        backend = backend_name(device)
        # No compiled graph of an earlier process: what is measured is what is in the bundle.
        predictor = predictor_for(bundle)(
            bundle, device=device, tier=tier, options=BackendOptions(), uncertified=backend
        )
        parity = measure_bundle(predictor)
    except SamsdkError as error:
        return {**check, "detail": str(error)}
    plan, engine = predictor.engines.plan, engine_name(backend)
    if certify:
        keep_certificate(bundle, tier, backend, complete(bundle, plan, engine, parity.to_dict()))
    asked = "crops" if bundle.manifest.task == VOLUME else "prompts"
    detail = (
        f"{parity.cases} golden {asked}, largest logit difference {parity.max_logit_difference:.1e}, "
        f"mean mask IoU {parity.mean_mask_iou:.6f}"
    )
    try:
        find_certificate(bundle, tier, backend, plan, engine)
    except BundleError as error:
        detail = f"{detail}; the runtime refuses it: {error}"
    else:
        check["certified"] = True
    return {**check, "passed": parity.passed, "detail": detail, "parity": parity.to_dict()}
