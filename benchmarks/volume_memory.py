"""How much memory a process takes that segments a volume of 512 x 512 x 300 voxels.

    python benchmarks/volume_memory.py [--device cpu]

The volume and the bundle for volumes are made by benchmarks/volume_memory_inputs.py in a temporary folder. Each row is
one call of `samsdk segment` in a process of its own, from the file to the written labels: window by window with a
bundle for volumes, or followed through all slices with a bundle for images, embeddings kept within the default limit.
Measured is the most resident memory that the process ever had, beside what it said before it started. LiteMedSAM takes
part where its bundle has been made. The JSON goes to benchmarks/results/ after each row; docs/volumes.md shows it.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from results import ROOT, write_result
from samsdk.bundle import Bundle
from samsdk.environment import resident_mb
from samsdk.errors import BundleError
from samsdk.hub import resolve_bundle

SHAPE = (300, 512, 512)
WINDOWS = ("swin_unetr",)
FOLLOWED = ("student", "lite-medsam")
# 3 GiB and 1.5 GiB.
LIMITS_MB = {"windows": 3 * 2**30 / 1e6, "followed": 1.5 * 2**30 / 1e6}
# The organ of the middle slice; it goes through all slices, so that all of them are encoded.
PROMPT = ("--slice", "150", "--box", "118,168,272,293", "--extent", "0,299")


def segment(volume: Path, bundle: Path, device: str, *options: str) -> dict[str, Any]:
    """One process of the program: what it said of itself, and what it took."""
    output = volume.with_name("labels.nii.gz")
    command = [sys.executable, "-m", "samsdk", "segment", str(volume), "--model", str(bundle), "--device", device]
    begun = time.perf_counter()
    process = subprocess.Popen([*command, *options, "-o", str(output), "--json"], stdout=subprocess.PIPE, text=True)
    assert process.stdout
    said = process.stdout.read()
    # Of this child alone; this process is small, for a child starts with what its parent had.
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{bundle.name} failed: {said}")
    output.unlink()
    return {
        "seconds": round(time.perf_counter() - begun, 1),
        "peak_memory_mb": round(resident_mb(usage.ru_maxrss), 1),
        "said": json.loads(said),
    }


def row(way: str, name: str, bundle: Path, device: str, volume: Path) -> dict[str, Any]:
    """One row of the table."""
    print(f"{way} {name}", file=sys.stderr, flush=True)
    opened = Bundle.open(bundle)
    manifest = opened.manifest
    measured = segment(volume, bundle, device, *(PROMPT if way == "followed" else ()))
    said = measured.pop("said")
    if tuple(said["size"]) != SHAPE:
        raise SystemExit(f"expected a volume of {SHAPE}, got {said['size']}")
    return {
        "way": way,
        "bundle": name,
        "identity": opened.identity,
        "provider": said["provider"],
        "crop": list(manifest.volume.crop) if manifest.volume else None,
        "overlap": manifest.volume.overlap if manifest.volume else None,
        "classes": len(said["classes"]),
        "slices": said["slices"]["count"] if "slices" in said else None,
        "planned_mb": said["memory"]["process_mb"],
        "own_mb": said["memory"]["peak_mb"],
        "limit_mb": round(LIMITS_MB[way], 1),
        **measured,
    }


def main() -> None:
    """Measure and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", action="append", help="repeatable; cpu when left out")
    devices = parser.parse_args().device or ["cpu"]
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        inputs = [sys.executable, str(ROOT / "benchmarks" / "volume_memory_inputs.py"), str(folder)]
        subprocess.run(inputs, check=True)
        found = [("windows", name, folder / name) for name in WINDOWS]
        for name in FOLLOWED:
            try:
                found.append(("followed", name, resolve_bundle(name)))
            except BundleError as error:
                print(f"without {name}: {error}", file=sys.stderr)
        rows = []
        for way, name, bundle in found:
            for device in devices:
                rows.append(row(way, name, bundle, device, folder / "scan.nii.gz"))
                print(rows[-1], file=sys.stderr, flush=True)
                path = write_result("volume_memory", {"shape": list(SHAPE), "rows": rows})
    print(path)


if __name__ == "__main__":
    main()
