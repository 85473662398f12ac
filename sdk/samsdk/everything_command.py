"""`samsdk everything`."""

import argparse
from pathlib import Path

import numpy as np

import samsdk
from samsdk.command import Report, Subparsers, WrongCallError, add_bundle_options, add_command, add_frame_option
from samsdk.everything.generator import segment_everything
from samsdk.everything.result import SUFFIXES
from samsdk.everything.settings import EverythingSettings
from samsdk.io.dicom import SUFFIXES as DICOM_SUFFIXES
from samsdk.io.images import write_png
from samsdk.io.saving import save_result
from samsdk.io.scans import read_scan
from samsdk.measuring.sizes import ObjectSizes, summary


def add_everything(commands: Subparsers) -> None:
    """Add the command `everything`."""
    parser = add_command(commands, "everything", _run_everything, "find and count all objects without a prompt")
    parser.add_argument("image", type=Path, help="image file, DICOM too")
    add_frame_option(parser)
    add_everything_options(parser)
    add_bundle_options(parser)
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        metavar="OUT",
        help="label map: .png (16 bits) or .npz; the objects as a COCO file: .json; or, of a DICOM image, as a DICOM "
        "segmentation: .dcm",
    )
    parser.add_argument("--overlay", type=Path, metavar="PNG", help="picture of the objects on the image")


def add_everything_options(parser: argparse.ArgumentParser) -> None:
    """Add where points go, and which objects count."""
    parser.add_argument(
        "--grid",
        type=int,
        metavar="N",
        help="a grid of N x N points over the image; points where something stands out when left out",
    )
    parser.add_argument(
        "--layers", type=int, metavar="N", help="of closer tiles, 0 for none; as many as add detail when left out"
    )
    parser.add_argument("--smallest", type=int, metavar="PIXELS", help="objects of fewer pixels are left out")


def everything_settings(args: argparse.Namespace) -> EverythingSettings | None:
    """What `add_everything_options` was given; None if nothing.

    Raises:
        WrongCallError: it is not valid.
    """
    named = {"points_per_side": args.grid, "crop_n_layers": args.layers, "min_mask_region_area": args.smallest}
    given = {name: value for name, value in named.items() if value is not None}
    try:
        return EverythingSettings(**given) if given else None
    except ValueError as error:
        raise WrongCallError(str(error)) from error


def _run_everything(args: argparse.Namespace) -> Report:
    known = (*SUFFIXES, *DICOM_SUFFIXES)
    if args.output and not args.output.name.lower().endswith(known):
        raise WrongCallError(f"-o: expected a name that ends in {', '.join(known)}, got {args.output.name}")
    settings = everything_settings(args) or EverythingSettings()
    image = read_scan(args.image, frame=args.frame)
    predictor = samsdk.load(args.model, device=args.device, tier=args.tier)
    result = segment_everything(predictor, image, settings)
    written = {}
    if args.output:
        save_result(result, args.output, args.image)
        written["output"] = str(args.output)
    if args.overlay:
        write_png(args.overlay, result.overlay(image))
        written["overlay"] = str(args.overlay)
    lines = [
        *_describe(result.sizes()),
        f"{result.points} points  "
        + "  ".join(f"{stage} {value:.1f} ms" for stage, value in result.timings.items())
        + f"  on {result.provider}",
        *(f"{kind}: {path}" for kind, path in written.items()),
    ]
    return Report({**result.to_dict(), **written}, "\n".join(lines))


def _describe(sizes: ObjectSizes) -> list[str]:
    """How many objects there are, and a line for each measure in its unit."""
    cut = int(np.count_nonzero(sizes.cut))
    lines = [f"{sizes.count} objects" + (f", {cut} of them cut by the image's border" if cut else "")]
    for name, values in sizes.values().items() if sizes.count else ():
        what, _, unit = name.rpartition("_")
        of_all = summary(values)
        lines.append(
            f"{what.replace('_', ' ')} {of_all['smallest']:.4g} to {of_all['largest']:.4g} {unit}, "
            f"median {of_all['median']:.4g} {unit}"
        )
    return lines
