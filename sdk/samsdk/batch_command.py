"""`samsdk batch`."""

import argparse
import os
from contextlib import closing
from pathlib import Path
from typing import Final

from samsdk.command import (
    Report,
    Subparsers,
    WrongCallError,
    add_bundle_options,
    add_command,
    add_measure_options,
    add_zoom_option,
    variations,
)
from samsdk.everything_command import add_everything_options, everything_settings

_ENGINES: Final = ("local", "ray")
# Failures that people see; the report has all of them.
_SHOWN: Final = 10


def add_batch(commands: Subparsers) -> None:
    """Add the command `batch`."""
    parser = add_command(commands, "batch", _run_batch, "segment all files of a folder; goes on where it was stopped")
    parser.add_argument("folder", type=Path, metavar="DIR", help="folder of images or NIfTI volumes, with those in it")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument(
        "--prompts",
        type=Path,
        metavar="FILE",
        help="CSV or JSON with file, object, points, labels, box, points_mm, box_mm, frame; a row an object",
    )
    what.add_argument(
        "--auto",
        action="store_true",
        help="all files: what a bundle finds that needs no prompt, or else all objects, as samsdk everything does",
    )
    add_everything_options(parser)
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="OUT", help="folder of the run")
    add_bundle_options(parser)
    add_zoom_option(parser)
    parser.add_argument("--processes", type=_count, default=1, metavar="N", help="that share the cores; 1 if left out")
    parser.add_argument(
        "--format",
        type=_words,
        metavar="FORMATS",
        help="png (when left out), json, npz, nii.gz (when left out, of volumes), dcm (of DICOM images, a DICOM "
        "segmentation), with commas between them",
    )
    add_measure_options(parser, 0)
    parser.add_argument("--retry-failed", action="store_true", help="do again what failed in an earlier run")
    parser.add_argument("--engine", choices=_ENGINES, default="local", help="ray: on a Ray cluster, see $RAY_ADDRESS")


def _run_batch(args: argparse.Namespace) -> Report:
    from samsdk.batch.progress import Counter
    from samsdk.batch.run import run_batch

    with closing(Counter()) as progress:
        try:
            report = run_batch(
                args.folder,
                args.output,
                prompts=args.prompts,
                model=args.model,
                device=args.device,
                tier=args.tier,
                zoom=args.zoom,
                formats=args.format,
                measure=args.measure,
                variations=variations(args, 0),
                everything=everything_settings(args),
                processes=args.processes,
                engine=args.engine,
                retry_failed=args.retry_failed,
                progress=progress,
            )
        except ValueError as error:
            # Errors of images and prompts are ValueErrors too, and say what happened themselves.
            if type(error) is not ValueError:
                raise
            raise WrongCallError(str(error)) from error
    data = {"out": os.fspath(args.output), **report.to_dict()}
    failures = report.failures()
    lines = [
        f"{data['done']} done, {data['failed']} failed, {data['skipped']} skipped; {data['fresh']} of them now, in "
        f"{data['seconds']:.1f} s",
        *(f"failed: {one['file']}: {one['error']}: {one['message']}" for one in failures[:_SHOWN]),
        *([f"and {len(failures) - _SHOWN} more"] if len(failures) > _SHOWN else []),
        f"table: {args.output / report.written[0]}",
    ]
    return Report(data, "\n".join(lines), failed=bool(report.failed))


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a number of processes, 1 or more, got {text!r}")
    return int(text)


def _words(text: str) -> list[str]:
    return [word.strip().lstrip(".") for word in text.split(",") if word.strip()]
