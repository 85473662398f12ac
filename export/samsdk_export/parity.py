"""The parity check, in a process of its own: it reads a request from stdin and prints one JSON object.

A fresh process, because only then is what ran the thing that was written to disk, with no torch loaded beside it. This
module therefore imports nothing that needs torch.
"""

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from samsdk.backends import backend_name, engine_name
from samsdk.bundle import Bundle
from samsdk.certificates import complete
from samsdk.errors import SamsdkError
from samsdk.golden import EXACT, LOWER
from samsdk.opening import predictor_for
from samsdk.parity import measure_bundle
from samsdk.tiers import DICE_BOUNDS
from samsdk_export.calibration import CalibrationSets, Reference, dice_change, largest_change, what_counts


class ParityError(SamsdkError):
    """The exported bundle does not compute what the checkpoint computes, or could not be run."""


def certify(
    bundle: Path,
    tier: str,
    device: str,
    calibration: CalibrationSets | None = None,
    reference: Reference | None = None,
) -> dict[str, Any]:
    """Measure a tier's parity on a device, in a fresh process.

    Args:
        bundle: a bundle folder without a certificate.
        tier: to be measured.
        device: e.g. `cpu`.
        calibration: labelled sets; needed by all tiers but `exact`.
        reference: the checkpoint's Dice on them, by set and kind of prompt.

    Returns:
        The certificate, with `passed` true.

    Raises:
        ParityError: the process failed, or the measurements exceed the bounds.
    """
    request: dict[str, Any] = {"bundle": str(bundle), "tier": tier, "device": device}
    if calibration is not None:
        request |= {
            "folders": [str(folder) for folder in calibration.folders],
            "images": calibration.images,
            "objects": calibration.objects,
            "reference": reference,
        }
    process = subprocess.run(
        [sys.executable, "-m", "samsdk_export.parity"],
        input=json.dumps(request),
        capture_output=True,
        text=True,
        check=False,
    )
    if process.returncode != 0:
        raise ParityError(
            f"the parity check of tier {tier!r} on {device} could not run: {process.stderr.strip()[-2000:]}"
        )
    certificate: dict[str, Any] = json.loads(process.stdout)
    if certificate["passed"] is not True:
        raise ParityError(
            f"tier {tier!r} on {device} does not compute what the checkpoint computes: {json.dumps(certificate)}"
        )
    return certificate


def measure(request: Mapping[str, Any]) -> dict[str, Any]:
    """Measure what `certify` asks for.

    Raises:
        SamsdkError: the bundle cannot be run.
    """
    tier, device = request["tier"], request["device"]
    bundle, backend = Bundle.open(request["bundle"]), backend_name(device)
    manifest = bundle.manifest
    predictor = predictor_for(bundle)(bundle, device=device, tier=tier, uncertified=backend)
    measured = measure_bundle(predictor, EXACT if tier == "exact" else LOWER).to_dict()
    measured |= {"dice": None, "dice_change": None}
    if request.get("reference") is not None:
        sets = CalibrationSets(tuple(map(Path, request["folders"])), request["images"], request["objects"])
        measured["dice"] = sets.dice(predictor, *what_counts(manifest.task, manifest.trained_kinds, manifest.classes))
        measured["dice_change"] = dice_change(measured["dice"], request["reference"])
        measured["bounds"]["dice_change"] = DICE_BOUNDS[tier] or DICE_BOUNDS["balanced"]
        measured["passed"] &= largest_change(measured["dice_change"]) <= measured["bounds"]["dice_change"]
    elif tier != "exact":
        raise ParityError(f"tier {tier!r} cannot be certified without calibration sets")
    return complete(bundle, predictor.engines.plan, engine_name(backend), measured)


def main() -> int:
    """Answer one request from stdin on stdout."""
    try:
        certificate = measure(json.load(sys.stdin))
    except SamsdkError as error:
        sys.stderr.write(str(error))
        return 1
    sys.stdout.write(json.dumps(certificate))
    return 0


if __name__ == "__main__":
    sys.exit(main())
