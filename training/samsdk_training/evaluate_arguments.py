"""What `samsdk evaluate` can be told: its options, and how their values are read."""

import argparse
import math
from pathlib import Path
from typing import Final

from samsdk_training.data import LISTS
from samsdk_training.evaluation import NO_PROMPT, PROMPTS, point_count

TRANSUNET: Final = "transunet"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the model, the data and all options."""
    parser.add_argument("model", help="bundle or name, or a checkpoint's folder")
    parser.add_argument(
        "--data", type=Path, required=True, metavar="DIR", help="a set (images/, masks/, a list), or a folder of sets"
    )
    parser.add_argument(
        "--prompts",
        type=_prompts,
        metavar="WORD,WORD",
        help=f"box, pointN for N clicks, none: what the model does not take is left out; {','.join(PROMPTS)}, or none "
        "for a model that needs no prompt, when left out",
    )
    parser.add_argument("--list", default="val.txt", choices=LISTS, help="the list of ids in each set (val.txt)")
    parser.add_argument(
        "--share", type=_share, default=(0.0, 1.0), metavar="FROM,TO", help="only this part of each list (0,1)"
    )
    parser.add_argument(
        "--images",
        type=_count,
        metavar="N",
        help="only the first N images or slices of each list; without prompts: images or volumes",
    )
    parser.add_argument(
        "--union",
        action="store_true",
        help="all labels are one class, as `union` in a recipe; of a model that names classes, and with --by-class",
    )
    parser.add_argument(
        "--by-class",
        action="store_true",
        help="ask a promptable model for each class of an image, with the points of --prompts in it, and measure the "
        "label map that the answers make together",
    )
    parser.add_argument("--objects", type=_count, default=8, metavar="N", help="at most N objects an image (8)")
    parser.add_argument("--zoom", action=argparse.BooleanOptionalAction, help="as in samsdk segment")
    parser.add_argument("--device", help="auto (when left out), cpu, cuda, openvino or tensorrt; of a bundle")
    parser.add_argument("--tier", help="exact (when left out), balanced or fast; of a bundle")
    _add_measures(parser)
    parser.add_argument(
        "--csv", type=Path, metavar="FILE", help="write one row an object and prompt, or case and class"
    )


def _add_measures(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--nsd", type=_tolerance, metavar="MM", help="measure the normalised surface Dice at this tolerance, too"
    )
    parser.add_argument(
        "--hd95", choices=("medpy", "deepmind"), help="measure the 95 %% Hausdorff distance by this convention, too"
    )
    parser.add_argument(
        "--spacing",
        type=_spacing,
        metavar="MM,MM[,MM]",
        help="size of a pixel, down and across, of volumes with the distance of planes first; as the files say when "
        "left out; 1,1 measures in pixels",
    )
    parser.add_argument(
        "--empty",
        choices=("undefined", "perfect"),
        help="what is worth a mask that is empty in the reference and in the answer: nothing, and means leave it out "
        "(when left out), or full marks",
    )
    parser.add_argument(
        "--protocol",
        choices=(TRANSUNET,),
        help="Dice and HD95 of a semantic model's volumes by the rules of TransUNet's tables, for comparison alone",
    )


def _prompts(text: str) -> tuple[str, ...]:
    words = tuple(dict.fromkeys(text.split(",")))
    for word in words:
        if word != NO_PROMPT:
            try:
                point_count(word)
            except ValueError:
                raise argparse.ArgumentTypeError(
                    f"unknown prompt {word!r}, expected box, point1 to point99, or none"
                ) from None
    return words


def _share(text: str) -> tuple[float, float]:
    try:
        first, last = (float(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected FROM,TO as 0.667,1; got {text!r}") from None
    return first, last


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 1, got {text!r}")
    return int(text)


def _tolerance(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value >= 0):
        raise argparse.ArgumentTypeError(f"expected a tolerance in mm, from 0 on, got {text!r}")
    return value


def _spacing(text: str) -> tuple[float, ...]:
    try:
        sizes = tuple(float(part) for part in text.split(","))
    except ValueError:
        sizes = ()
    if len(sizes) not in (2, 3) or not all(math.isfinite(size) and size > 0 for size in sizes):
        raise argparse.ArgumentTypeError(f"expected two or three sizes above 0, as 0.7,0.7; got {text!r}")
    return sizes
