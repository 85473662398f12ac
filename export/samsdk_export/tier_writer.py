"""Adding tiers to a bundle that is being written: finding their plans, and proving each on every backend at hand."""

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from samsdk.backends import available_devices, backend_name
from samsdk.bundle import Bundle
from samsdk.tiers import Plan
from samsdk_export.calibration import CalibrationSets, Reference
from samsdk_export.parity import certify
from samsdk_export.precision import BACKEND, DEVICE, Probe, find_plan, measure_layers

EXACT = "exact"
Progress = Callable[[str], None]


@dataclass(frozen=True)
class TierRequest:
    """What export was asked for beside full precision.

    Attributes:
        tiers: some of `balanced` and `fast`.
        calibration: labelled sets; None only where there are no tiers.
    """

    tiers: tuple[str, ...] = ()
    calibration: CalibrationSets | None = None


def add_tiers(
    path: Path, manifest: dict[str, Any], request: TierRequest, reference: Reference | None, progress: Progress
) -> None:
    """Prove the full precision, and find and prove the lower ones; the manifest on disk is complete afterwards.

    Args:
        path: `manifest.json` in a staging folder whose other files are all there.
        manifest: its content, without certificates; changed in place.
        request: what to add.
        reference: the checkpoint's Dice on the calibration sets.
        progress: called with a line before each step.

    Raises:
        ParityError: a tier is not within its bounds.
        MissingExtraError: a lower tier needs OpenVINO, which is not installed.
    """
    write_manifest(path, manifest)
    for device in certified_devices():
        _prove(path, manifest, EXACT, device, request.calibration, reference, progress)
    if not request.tiers or request.calibration is None or reference is None:
        return
    bundle = Bundle.open(path.parent)
    plan = bundle.manifest.plan(EXACT, BACKEND)
    probe = Probe(bundle, plan, request.calibration, bundle.manifest.trained_kinds)
    layers = measure_layers(bundle, plan, probe, progress)
    for tier in request.tiers:
        found = find_plan(bundle, plan, tier, layers, request.calibration, reference, progress)
        if found is None:
            progress(f"{tier}: left out, no layer may be lowered within its bound")
            continue
        manifest["tiers"][tier] = [plan_entry(found.plan)]
        write_manifest(path, manifest)
        _prove(path, manifest, tier, DEVICE, request.calibration, reference, progress)


def certified_devices() -> list[str]:
    """What export proves a bundle on: the CPU backends that are installed; doctor proves it on GPUs, where they are."""
    return [device for device in available_devices() if device in ("cpu", "openvino")]


def plan_entry(plan: Plan) -> dict[str, Any]:
    """A plan as the manifest holds it."""
    entry = asdict(plan)
    return {key: value for key, value in entry.items() if value}


def write_manifest(path: Path, manifest: Mapping[str, Any]) -> None:
    """Write `manifest.json`, whole or not at all."""
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
    temporary.replace(path)


def _prove(
    path: Path,
    manifest: dict[str, Any],
    tier: str,
    device: str,
    calibration: CalibrationSets | None,
    reference: Reference | None,
    progress: Progress,
) -> None:
    progress(f"checking parity of tier {tier} on {device} in a fresh process")
    certificate = certify(path.parent, tier, device, calibration, reference)
    manifest["parity"].setdefault(tier, {})[backend_name(device)] = certificate
    write_manifest(path, manifest)
