"""What the commands of the program `samsdk` are made of, in this room and in those that add their own."""

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import Any, Final

from samsdk.errors import SamsdkError

# Entry points by which other rooms add commands, and actions of `samsdk models`.
EXTENSIONS: Final = "samsdk.commands"
MODEL_EXTENSIONS: Final = "samsdk.models"
DEVICES: Final = "auto, cpu, cuda, openvino or tensorrt"


class WrongCallError(SamsdkError):
    """Arguments that only together make no sense; the program exits with 2, as for those that argparse refuses."""


@dataclass(frozen=True)
class Report:
    """What a command says: an object for `--json`, lines for people, and whether it failed."""

    data: dict[str, Any]
    text: str
    failed: bool = False


Command = Callable[[argparse.Namespace], Report]
Subparsers = Any  # argparse gives no public name to what add_subparsers returns


def add_command(commands: Subparsers, name: str, run: Command, text: str) -> argparse.ArgumentParser:
    """Add one command with the options that every command has.

    Args:
        commands: what `build_parser` hands to an entry point.
        name: the command's word.
        run: called with the parsed arguments; raises `SamsdkError` when it fails.
        text: one line of help.

    Returns:
        The command's parser, to add its own options to.
    """
    parser: argparse.ArgumentParser = commands.add_parser(name, help=text, description=text)
    parser.add_argument("--json", action="store_true", help="print one JSON object on stdout")
    parser.add_argument("-v", "--verbose", action="store_true", help="log what happens on stderr")
    parser.set_defaults(run=run)
    return parser


def add_bundle_options(parser: argparse.ArgumentParser) -> None:
    """Add which bundle answers, and on what it runs."""
    parser.add_argument("--model", metavar="BUNDLE", help="bundle or name; the default model when left out")
    add_engine_options(parser)


def add_engine_options(parser: argparse.ArgumentParser) -> None:
    """Add on what bundles run, and how precisely."""
    parser.add_argument("--device", default="auto", help=DEVICES)
    parser.add_argument("--tier", help="exact (when left out), balanced or fast, as far as the bundle has them")


def add_zoom_option(parser: argparse.ArgumentParser) -> None:
    """Add whether small objects are looked at twice."""
    parser.add_argument(
        "--zoom",
        action=argparse.BooleanOptionalAction,
        help="look a second time, at a window around the object; as the bundle recommends when left out",
    )


def add_measure_options(parser: argparse.ArgumentParser, variations: int) -> None:
    """Add whether masks are measured; `variations` is how many moved prompts give ranges when nobody says."""
    parser.add_argument(
        "--measure",
        action="store_true",
        help="area, diameters and more, in pixels and, where the file says how large a pixel is, in mm",
    )
    parser.add_argument(
        "--variations",
        type=_whole_number,
        metavar="N",
        help=f"with --measure: moved prompts that give each value a range; {variations} when left out",
    )


def variations(args: argparse.Namespace, default: int) -> int:
    """How many moved prompts `add_measure_options` was asked for.

    Raises:
        WrongCallError: some are, but nothing is to be measured.
    """
    if args.variations is not None and not args.measure:
        raise WrongCallError("--variations gives what is measured a range: give --measure too")
    return (default if args.variations is None else int(args.variations)) if args.measure else 0


def _whole_number(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"expected a whole number, 0 or more, got {text!r}")
    return int(text)


def add_frame_option(parser: argparse.ArgumentParser) -> None:
    """Add which image of a file of several is meant."""
    parser.add_argument("--frame", type=int, metavar="N", help="frame of a DICOM file or page of a TIFF, from 0 on")


def parse_numbers(text: str, counts: tuple[int, ...], form: str) -> list[float]:
    """Read an option's numbers.

    Args:
        text: as it was given, with commas between the numbers.
        counts: how many there may be.
        form: what is expected, for the error.

    Raises:
        argparse.ArgumentTypeError: these are no numbers, or another count of them.
    """
    try:
        values = [float(part) for part in text.split(",")]
    except ValueError:
        values = []
    if len(values) not in counts:
        raise argparse.ArgumentTypeError(f"expected {form}, got {text!r}")
    return values


def extend(commands: Subparsers, group: str) -> None:
    """Add what the installed rooms have, by their entry points of a group."""
    for extension in sorted(entry_points(group=group), key=lambda entry: entry.name):
        extension.load()(commands)
