"""The parity check, in a process of its own: `python -m samsdk_export.parity BUNDLE TIER` prints one JSON object.

A fresh process, because only then is what ran the thing that was written to disk, with no torch loaded beside it. This
module therefore imports the runtime alone.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from samsdk.bundle import Bundle
from samsdk.errors import SamsdkError
from samsdk.golden import measure_parity
from samsdk.predictor import Predictor

# The only backend that every export machine has; `samsdk doctor` measures the others where they are.
CERTIFIED_BACKEND = "onnxruntime-cpu"


class ParityError(SamsdkError):
    """The exported bundle does not compute what the checkpoint computes, or could not be run."""


def certify(bundle: Path, tier: str) -> dict[str, Any]:
    """Measure a tier's parity in a fresh process.

    Args:
        bundle: a bundle folder without a certificate.
        tier: to be measured.

    Returns:
        The certificate, with `passed` true.

    Raises:
        ParityError: the process failed, or the measurements exceed the bounds.
    """
    command = [sys.executable, "-m", "samsdk_export.parity", str(bundle), tier]
    process = subprocess.run(command, capture_output=True, text=True, check=False)
    if process.returncode != 0:
        raise ParityError(f"the parity check of tier {tier!r} could not run: {process.stderr.strip()[-2000:]}")
    certificate: dict[str, Any] = json.loads(process.stdout)
    if certificate["passed"] is not True:
        raise ParityError(f"tier {tier!r} does not compute what the checkpoint computes: {json.dumps(certificate)}")
    return certificate


def main(argv: list[str]) -> int:
    """Measure one tier and print the certificate."""
    bundle, tier = argv
    try:
        predictor = Predictor(Bundle.open(bundle), device="cpu", tier=tier, require_certificate=False)
        certificate = measure_parity(predictor).to_dict()
    except SamsdkError as error:
        sys.stderr.write(str(error))
        return 1
    # The Dice change on a calibration set is measured for tiers of lower precision; full precision is held by the
    # bounds.
    sys.stdout.write(json.dumps({**certificate, "dice_change": None}))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
