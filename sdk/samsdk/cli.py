"""The program `samsdk`. Rooms that are installed with an extra add their own commands by entry point."""

import argparse
import json
import logging
import sys
from collections.abc import Sequence

import samsdk
from samsdk.batch_command import add_batch
from samsdk.bundle_commands import add_bench, add_doctor, add_info
from samsdk.command import EXTENSIONS, Report, WrongCallError, extend
from samsdk.errors import SamsdkError
from samsdk.everything_command import add_everything
from samsdk.models_command import add_models
from samsdk.segment_command import add_segment
from samsdk.serve_command import add_serve


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program.

    Args:
        argv: arguments without the program's name; None takes them from the process.

    Returns:
        0 done, 1 failed, 2 wrong call (through `SystemExit`, as argparse does).
    """
    args = build_parser().parse_args(argv)
    logging.basicConfig(
        stream=sys.stderr, level=logging.INFO if args.verbose else logging.WARNING, format="%(name)s: %(message)s"
    )
    try:
        report: Report = args.run(args)
    except SamsdkError as error:
        return _fail(args, type(error).__name__, str(error), code=2 if isinstance(error, WrongCallError) else 1)
    except KeyboardInterrupt:
        return _fail(args, "KeyboardInterrupt", "interrupted; nothing half-written was left")
    print(json.dumps(report.data) if args.json else report.text)
    return int(report.failed)


def _fail(args: argparse.Namespace, kind: str, message: str, code: int = 1) -> int:
    if args.json:
        print(json.dumps({"error": {"type": kind, "message": message}}))
    print(f"samsdk: {kind}: {message}", file=sys.stderr)
    return code


def build_parser() -> argparse.ArgumentParser:
    """The parser with this room's commands and those of the installed rooms."""
    parser = argparse.ArgumentParser(prog="samsdk", description="Promptable medical segmentation on edge devices.")
    parser.add_argument("--version", action="version", version=f"samsdk {samsdk.__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    add_segment(commands)
    add_everything(commands)
    add_batch(commands)
    add_models(commands)
    add_info(commands)
    add_doctor(commands)
    add_bench(commands)
    add_serve(commands)
    extend(commands, EXTENSIONS)
    return parser
