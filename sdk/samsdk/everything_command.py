"""`samsdk everything`."""

import argparse
from pathlib import Path

import samsdk
from samsdk.command import Report, Subparsers, WrongCallError, add_bundle_options, add_command, add_frame_option
from samsdk.everything.generator import segment_everything
from samsdk.everything.result import SUFFIXES
from samsdk.everything.settings import EverythingSettings
from samsdk.io.images import write_png
from samsdk.io.scans import read_scan


def add_everything(commands: Subparsers) -> None:
    """Add the command `everything`."""
    parser = add_command(commands, "everything", _run_everything, "find and count all objects without a prompt")
    parser.add_argument("image", type=Path, help="image file, DICOM too")
    add_frame_option(parser)
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
    add_bundle_options(parser)
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        metavar="OUT",
        help="label map: .png (16 bits) or .npz; or the objects as a COCO file: .json",
    )
    parser.add_argument("--overlay", type=Path, metavar="PNG", help="picture of the objects on the image")


def _run_everything(args: argparse.Namespace) -> Report:
    if args.output and not args.output.name.lower().endswith(SUFFIXES):
        raise WrongCallError(f"-o: expected a name that ends in {', '.join(SUFFIXES)}, got {args.output.name}")
    try:
        settings = _settings(args)
    except ValueError as error:
        raise WrongCallError(str(error)) from error
    image = read_scan(args.image, frame=args.frame)
    predictor = samsdk.load(args.model, device=args.device, tier=args.tier)
    result = segment_everything(predictor, image, settings)
    written = {}
    if args.output:
        result.save(args.output)
        written["output"] = str(args.output)
    if args.overlay:
        write_png(args.overlay, result.overlay(image))
        written["overlay"] = str(args.overlay)
    areas = sorted(one.area for one in result.instances)
    sizes = f", {areas[0]} to {areas[-1]} px, median {areas[len(areas) // 2]} px" if areas else ""
    lines = [
        f"{result.count} objects{sizes}",
        f"{result.points} points  "
        + "  ".join(f"{stage} {value:.1f} ms" for stage, value in result.timings.items())
        + f"  on {result.provider}",
        *(f"{kind}: {path}" for kind, path in written.items()),
    ]
    return Report({**result.to_dict(), **written}, "\n".join(lines))


def _settings(args: argparse.Namespace) -> EverythingSettings:
    given = {"points_per_side": args.grid, "crop_n_layers": args.layers, "min_mask_region_area": args.smallest}
    return EverythingSettings(**{name: value for name, value in given.items() if value is not None})
