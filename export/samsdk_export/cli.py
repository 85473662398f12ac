"""`samsdk export`, added to the program by entry point. It imports torch only when it runs: others stay fast."""

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from samsdk import hub
from samsdk.command import Report, WrongCallError, add_command
from samsdk.errors import MissingExtraError

if TYPE_CHECKING:
    from samsdk_training.checkpoints import Checkpoint


def add_export(commands: Any) -> None:
    """Add the command `export`."""
    parser = add_command(commands, "export", _run, "turn a checkpoint into a verified bundle")
    parser.add_argument("checkpoint", help="a checkpoint's folder, or the name of a model (its weights are pulled)")
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        metavar="BUNDLE",
        help="folder or *.samsdk file; for a known name, the cache when left out",
    )
    parser.add_argument("--name", help="the model's name; the checkpoint's folder when left out")
    parser.add_argument(
        "--accuracy", type=Path, metavar="FILE", help="what `samsdk evaluate --json` said, for manifest and model card"
    )
    parser.add_argument(
        "--tier",
        action="append",
        default=[],
        choices=("balanced", "fast"),
        help="search a plan in lower precision, too; repeatable; needs --calibrate",
    )
    parser.add_argument(
        "--calibrate",
        type=Path,
        action="append",
        default=[],
        metavar="SET",
        help="folder of labelled images that lower precision has to prove itself on; repeatable",
    )
    parser.add_argument("--calibrate-images", type=int, default=8, metavar="N", help="the first N of each set")
    parser.add_argument(
        "--tensorrt",
        default="",
        metavar="TARGETS",
        help="build TensorRT-RTX engines, too, e.g. for sm75,sm80,sm86,sm89,sm120; no GPU is needed",
    )


def _run(args: argparse.Namespace) -> Report:
    try:
        from samsdk_export.bundle_writer import write_bundle
        from samsdk_export.calibration import CalibrationSets
        from samsdk_export.tier_writer import TierRequest
    except ImportError as error:
        raise MissingExtraError(f"samsdk export needs {error.name}: pip install 'samsdk[export]'") from error
    known = args.checkpoint in hub.MODELS and not Path(args.checkpoint).exists()
    if not known and args.output is None:
        raise WrongCallError("give the bundle's place with -o")
    name = args.name or (args.checkpoint if known else Path(args.checkpoint).resolve().name)
    target = args.output or hub.bundle_path(name)
    accuracy = _read_accuracy(args.accuracy) if args.accuracy else None
    calibration = CalibrationSets(tuple(args.calibrate), args.calibrate_images) if args.calibrate else None
    targets = tuple(filter(None, args.tensorrt.split(",")))
    request = TierRequest(tuple(dict.fromkeys(args.tier)), calibration, targets)
    checkpoint = _checkpoint(args.checkpoint, known)
    write_bundle(checkpoint, target, name=name, request=request, accuracy=accuracy, progress=_say)
    return Report({"name": name, "bundle": str(target)}, str(target))


def _checkpoint(checkpoint: str, known: bool) -> "Checkpoint":
    from samsdk_training.checkpoints import load_checkpoint
    from samsdk_training.importers import import_weights

    if known:
        return import_weights(hub.pull(checkpoint, progress=_say), checkpoint)
    return load_checkpoint(Path(checkpoint))


def _read_accuracy(path: Path) -> dict[str, Any]:
    try:
        accuracy = json.loads(path.read_bytes())
        if "prompt" in accuracy:
            raise WrongCallError(
                f"{path} says what points in the reference add ({accuracy['prompt']}): evaluate without --by-class, "
                "and a model that needs no prompt with --prompts none"
            )
        return {key: accuracy[key] for key in ("bundle", "checkpoint", "zoom", "mean_dice", "sets")}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise WrongCallError(f"{path} does not hold what `samsdk evaluate --json` prints: {error!r}") from error


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
