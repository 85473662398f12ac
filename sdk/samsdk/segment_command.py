"""`samsdk segment`."""

import argparse
from pathlib import Path

import samsdk
from samsdk.command import DEVICES, Report, Subparsers, WrongCallError, add_command, parse_numbers
from samsdk.errors import PromptError
from samsdk.io.images import read_image, write_png
from samsdk.io.nifti import is_nifti
from samsdk.volume_command import add_volume_options, refuse_volume_options, segment_volume


def _point(text: str) -> list[float]:
    values = parse_numbers(text, (2, 3), "X,Y or X,Y,LABEL")
    return values if len(values) == 3 else [*values, 1.0]


def _box(text: str) -> list[float]:
    return parse_numbers(text, (4,), "X0,Y0,X1,Y1")


def add_segment(commands: Subparsers) -> None:
    """Add the command `segment`."""
    parser = add_command(commands, "segment", _run_segment, "segment what a prompt points at, or what a model knows")
    parser.add_argument("image", type=Path, help="image file, or volume: .nii.gz or .nii")
    parser.add_argument(
        "--point", type=_point, action="append", metavar="X,Y[,LABEL]", help="label 1 (default) or 0; repeatable"
    )
    parser.add_argument("--box", type=_box, metavar="X0,Y0,X1,Y1", help="tight box, x1 and y1 exclusive")
    parser.add_argument("--mask", type=Path, metavar="FILE", help="mask of the image's size, not zero is the object")
    parser.add_argument("--model", metavar="BUNDLE", help="bundle or name; the default model when left out")
    parser.add_argument("--device", default="auto", help=DEVICES)
    parser.add_argument("--tier", help="exact (when left out), balanced or fast, as far as the bundle has them")
    parser.add_argument(
        "--zoom",
        action=argparse.BooleanOptionalAction,
        help="look a second time, at a window around the object; as the bundle recommends when left out",
    )
    parser.add_argument(
        "-o", "--output", type=Path, metavar="OUT", help="mask or label map: .png (images), .npz, .nii.gz or .json"
    )
    parser.add_argument("--overlay", type=Path, metavar="PNG", help="picture of the mask on the image")
    parser.add_argument(
        "--instances",
        type=Path,
        metavar="PNG",
        help="numbers of the objects, 16 bits; of bundles that prompt themselves",
    )
    add_volume_options(parser)


def _run_segment(args: argparse.Namespace) -> Report:
    if is_nifti(args.image):
        return segment_volume(args)
    refuse_volume_options(args)
    points = [point[:2] for point in args.point] if args.point else None
    labels = [point[2] for point in args.point] if args.point else None
    image = read_image(args.image)
    mask = read_image(args.mask) if args.mask else None
    if mask is not None:
        # Whatever the file's dtype: floats would be taken for logits.
        mask = (mask != 0) if mask.ndim == 2 else (mask != 0).any(axis=2)
    try:
        result = samsdk.segment(
            image,
            points=points,
            labels=labels,
            box=args.box,
            mask=mask,
            zoom=args.zoom,
            model=args.model,
            device=args.device,
            tier=args.tier,
        )
    except PromptError as error:
        if points is not None or args.box is not None or mask is not None or args.zoom:
            raise
        # Whether one is needed, only the bundle knows.
        raise WrongCallError("give a prompt: --point X,Y[,LABEL], --box X0,Y0,X1,Y1 or --mask FILE") from error
    written = {}
    if args.instances:
        if not isinstance(result, samsdk.AutoResult):
            raise WrongCallError("--instances is for bundles that prompt themselves")
        result.save_instances(args.instances)
        written["instances"] = str(args.instances)
    if args.output:
        result.save(args.output)
        written["output"] = str(args.output)
    if args.overlay:
        write_png(args.overlay, result.overlay(image))
        written["overlay"] = str(args.overlay)
    lines = [
        *_describe(result),
        "  ".join(f"{stage} {value:.1f} ms" for stage, value in result.timings.items()) + f"  on {result.provider}",
        *(f"{kind}: {path}" for kind, path in written.items()),
    ]
    return Report({**result.to_dict(), **written}, "\n".join(lines))


def _describe(result: samsdk.Result) -> list[str]:
    if not isinstance(result, samsdk.SemanticResult):
        points = f"  points {len(result.points)}" if isinstance(result, samsdk.AutoResult) else ""
        return [f"score {result.score:.3f}  area {result.area} px  box {result.box}{points}"]
    return [
        f"{number} {name}: area {region.area} px  box {region.box}"
        for (number, name), region in zip(result.labels.items(), result.regions, strict=True)
    ]
