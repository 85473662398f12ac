"""`samsdk slim`, `merge` and `models import`, added to the program by entry points.

They import torch when they run: others stay fast.
"""

import argparse
from pathlib import Path
from typing import Any

from samsdk.command import Report, WrongCallError, add_command
from samsdk.errors import MissingExtraError


def add_slim(commands: Any) -> None:
    """Add the command `slim`."""
    parser = add_command(commands, "slim", _run_slim, "halve a checkpoint: fold batch norms, round weights to 16 bits")
    parser.add_argument("checkpoint", type=Path, help="a checkpoint's folder")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="CHECKPOINT", help="folder to write")


def add_merge(commands: Any) -> None:
    """Add the command `merge`."""
    parser = add_command(commands, "merge", _run_merge, "merge an adapter into the checkpoint that it was trained on")
    parser.add_argument("adapter", type=Path, metavar="CHECKPOINT_OR_ADAPTER", help="an adapter's folder")
    parser.add_argument("--base", type=Path, metavar="CHECKPOINT", help="folder of the adapter's base")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="CHECKPOINT", help="folder to write")
    parser.add_argument(
        "--strict", action="store_true", help="fail if the model has adapters that have to stay in the graph"
    )


def add_models_import(actions: Any) -> None:
    """Add the action `import` of the command `models`."""
    text = "turn a file of published weights into a checkpoint"
    parser = add_command(actions, "import", _run_models_import, text)
    parser.add_argument("file", type=Path, help="the weights as they were published (.pth, .pt)")
    parser.add_argument(
        "--as",
        dest="kind",
        required=True,
        metavar="KIND",
        help="sam-vit-b, -l or -h, medsam-vit-b, mobile-sam, lite-medsam, sam-med2d, samed, samed-s or samed-h",
    )
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="CHECKPOINT", help="folder to write")
    parser.add_argument(
        "--base", type=Path, metavar="FILE", help="base of low-rank weights (samed): its weights, or a checkpoint"
    )
    parser.add_argument(
        "--image-size", type=int, metavar="N", help="input side in pixels, if not that of the publication"
    )
    parser.add_argument("--classes", default="", metavar="NAME,NAME", help="names of the classes of low-rank weights")


def _run_models_import(args: argparse.Namespace) -> Report:
    try:
        from samsdk_training.checkpoints import save_checkpoint
        from samsdk_training.importers import KINDS, import_weights
    except ImportError as error:
        raise MissingExtraError(f"samsdk models import needs {error.name}: pip install 'samsdk[train]'") from error
    if args.kind not in KINDS:
        raise WrongCallError(f"unknown kind of weights {args.kind!r}; known kinds: {', '.join(KINDS)}")
    classes = [name.strip() for name in args.classes.split(",") if name.strip()]
    checkpoint = import_weights(args.file, args.kind, base=args.base, image_size=args.image_size, classes=classes)
    save_checkpoint(checkpoint, args.output)
    known = "the published file" if checkpoint.lineage["known"] else "not a published file that samsdk knows"
    data = {"checkpoint": str(args.output), "kind": args.kind, "lineage": checkpoint.lineage}
    lines = [
        f"{args.output}: {len(checkpoint.state)} tensors of {args.kind} ({known})",
        f"sha256 {checkpoint.lineage['sha256']}",
    ]
    return Report(data, "\n".join(lines))


def _run_slim(args: argparse.Namespace) -> Report:
    try:
        from samsdk_training.checkpoints import load_checkpoint, save_checkpoint
        from samsdk_training.slim import slim
    except ImportError as error:
        raise MissingExtraError(f"samsdk slim needs {error.name}: pip install 'samsdk[train]'") from error
    slimmed = slim(load_checkpoint(args.checkpoint))
    save_checkpoint(slimmed.checkpoint, args.output)
    data = {"checkpoint": str(args.output), "largest_relative_change": slimmed.largest_change}
    text = f"{args.output}: no weight changed by more than {slimmed.largest_change:.1e} of its tensor's largest"
    return Report(data, text)


def _run_merge(args: argparse.Namespace) -> Report:
    try:
        from samsdk_training.adapter_file import JSON_FILE, load_adapter
        from samsdk_training.checkpoints import save_checkpoint
        from samsdk_training.merging import merge_adapter, refuse_checkpoint
        from samsdk_training.tuning import load_base
    except ImportError as error:
        raise MissingExtraError(f"samsdk merge needs {error.name}: pip install 'samsdk[train]'") from error
    if not (args.adapter / JSON_FILE).is_file():
        refuse_checkpoint(args.adapter, strict=args.strict)
    adapter = load_adapter(args.adapter)
    if args.base is None:
        raise WrongCallError(f"an adapter needs its base: --base CHECKPOINT, of sha256 {adapter.base_sha256}")
    checkpoint, report = merge_adapter(adapter, load_base(args.base), strict=args.strict)
    save_checkpoint(checkpoint, args.output)
    data = {"checkpoint": str(args.output), **report.to_dict(), "base_sha256": adapter.base_sha256}
    lines = [
        f"{args.output}: merged at {len(report.merged)} places, rank {report.rank}, scale {report.scale:g}; "
        f"{len(report.replaced)} tensors replaced",
        *(f"stays in the graph: {name}" for name in report.retained),
    ]
    return Report(data, "\n".join(lines))
