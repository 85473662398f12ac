"""`samsdk info`, `doctor` and `bench`: what a bundle is, whether it holds on this device, and how fast it is there."""

import argparse
import json

from samsdk import hub
from samsdk.bench import run_bench
from samsdk.bundle import Bundle
from samsdk.command import DEVICES, Report, Subparsers, add_command
from samsdk.doctor import examine
from samsdk.manifest import AUTO, SEMANTIC, VOLUME, Manifest


def add_info(commands: Subparsers) -> None:
    """Add the command `info`."""
    parser = add_command(commands, "info", _run_info, "say what a bundle is and what was proved of it")
    parser.add_argument("bundle", nargs="?", help="bundle or name; the default model when left out")


def _run_info(args: argparse.Namespace) -> Report:
    bundle = Bundle.open(hub.resolve_bundle(args.bundle))
    manifest = bundle.manifest
    data = json.loads(bundle.read_manifest_text())
    lines = [
        f"{manifest.name} {manifest.version}  {manifest.task}  {bundle.identity}",
        f"path: {bundle.path}",
        _input(manifest),
        _takes(manifest),
        f"licence: {manifest.licence.get('id', '?')}  {manifest.licence.get('source', '')}",
    ]
    for kind, calibration in manifest.calibration.items():
        lines.append(f"confidence after {kind}: by a table fitted to {calibration.images} images")
    for tier, certificates in manifest.parity.items():
        for backend, measured in certificates.items():
            lines.append(
                f"tier {tier} on {backend}: {'passed' if measured['passed'] else 'FAILED'}, largest logit difference "
                f"{measured['max_logit_difference']:.1e}, mean mask IoU {measured['mean_mask_iou']:.6f}"
            )
    return Report({**data, "path": str(bundle.path), "identity": bundle.identity}, "\n".join(lines))


def _input(manifest: Manifest) -> str:
    volume = manifest.volume
    if volume is None:
        return f"input {manifest.preprocessing.input_size} px  embedding {list(manifest.embedding['image_embeddings'])}"
    spacing = "as given" if volume.spacing is None else f"{list(volume.spacing)} mm"
    return f"windows {list(volume.crop)} voxels (z, y, x)  spacing {spacing}  overlap {volume.overlap:g}"


def _takes(manifest: Manifest) -> str:
    if manifest.task in (SEMANTIC, VOLUME):
        return "classes: " + ", ".join(f"{number} {name}" for number, name in manifest.classes.items())
    alone = "none needed, or " if manifest.task == AUTO else ""
    return f"prompts: {alone}{', '.join(manifest.prompt_kinds)} (trained with: {', '.join(manifest.trained_kinds)})"


def add_doctor(commands: Subparsers) -> None:
    """Add the command `doctor`."""
    parser = add_command(
        commands, "doctor", _run_doctor, "check that a bundle computes on this device what was validated"
    )
    parser.add_argument("bundle", nargs="?", help="bundle or name; the default model when left out")
    parser.add_argument("--device", help=f"{DEVICES}; all that are there when left out")
    parser.add_argument(
        "--certify",
        action="store_true",
        help="keep what is measured: the runtime then accepts what passed here, and refuses what failed",
    )


def _run_doctor(args: argparse.Namespace) -> Report:
    data = examine(Bundle.open(hub.resolve_bundle(args.bundle)), device=args.device, certify=args.certify)
    lines = [f"{key}: {value}" for key, value in data["environment"].items()]
    lines += [f"FAIL  installation: {problem}" for problem in data["problems"]]
    for check in data["checks"]:
        verdict = "pass" if check["passed"] else "FAIL"
        lines.append(f"{verdict}  tier {check['tier']} on {check['device']}: {check['detail']}")
    return Report(data, "\n".join(lines), failed=not data["passed"])


def add_bench(commands: Subparsers) -> None:
    """Add the command `bench`."""
    parser = add_command(commands, "bench", _run_bench, "time a bundle on this device")
    parser.add_argument("bundle", nargs="?", help="bundle or name; the default model when left out")
    parser.add_argument(
        "--prompts", type=_count, action="append", metavar="N", help="prompts in one decoder call; 1, 4 and 16"
    )
    parser.add_argument("--repeats", type=_count, default=20, help="timed turns")
    parser.add_argument("--device", action="append", help="cpu, cuda, openvino, tensorrt; repeatable; all there")
    parser.add_argument("--tier", action="append", help="repeatable; all of the bundle's when left out")
    parser.add_argument("--threads", type=_count, help="threads of one call on the CPU")


def _run_bench(args: argparse.Namespace) -> Report:
    bundle = Bundle.open(hub.resolve_bundle(args.bundle))
    data = run_bench(
        bundle,
        devices=args.device,
        tiers=args.tier,
        threads=args.threads,
        repeats=args.repeats,
        prompts=args.prompts or (1, 4, 16),
    )
    lines = [f"{data['bundle']}  matrix product {data['peak_gflops']:.0f} GFLOP/s  p50 / p95 / p99 in ms"]
    for row in data["systems"]:
        memory = "" if row["peak_memory_mb"] is None else f"  peak memory {row['peak_memory_mb']:.0f} MB"
        speed = "" if row["encoder_gflops"] is None else f"  encoder {row['encoder_gflops']:.0f} GFLOP/s"
        lines.append(
            f"{row['device']}, tier {row['tier']} ({row['precision']}): cold start {row['cold_start_ms']:.0f} ms  load "
            f"{row['load_ms']:.0f} ms{memory}{speed}"
        )
        for stage, ranks in row["ms"].items():
            lines.append(f"  {stage:<11}" + " / ".join(f"{value:8.2f}" for value in ranks.values()))
    lines += [f"left out: {reason}" for reason in data["skipped"]]
    return Report(data, "\n".join(lines))


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 1, got {text!r}")
    return int(text)
