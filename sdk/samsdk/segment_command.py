"""`samsdk segment`."""

import argparse
from pathlib import Path
from typing import Final

import samsdk
from samsdk.command import (
    Report,
    Subparsers,
    WrongCallError,
    add_bundle_options,
    add_command,
    add_frame_option,
    add_measure_options,
    add_zoom_option,
    parse_numbers,
    variations,
)
from samsdk.errors import PromptError
from samsdk.io.images import read_image, write_png
from samsdk.io.nifti import is_nifti
from samsdk.io.saving import COCO_SUFFIX, save_result
from samsdk.io.scans import read_scan
from samsdk.measuring import Measurement
from samsdk.volume_command import add_volume_options, refuse_volume_options, segment_volume

_VARIATIONS: Final = 8


def _point(text: str) -> list[float]:
    values = parse_numbers(text, (2, 3), "X,Y or X,Y,LABEL")
    return values if len(values) == 3 else [*values, 1.0]


def _box(text: str) -> list[float]:
    return parse_numbers(text, (4,), "X0,Y0,X1,Y1")


def _centre_and_width(ends: tuple[float, float] | None) -> tuple[float, float] | None:
    return None if ends is None else ((ends[0] + ends[1]) / 2, ends[1] - ends[0])


def add_segment(commands: Subparsers) -> None:
    """Add the command `segment`."""
    parser = add_command(commands, "segment", _run_segment, "segment what a prompt points at, or what a model knows")
    parser.add_argument("image", type=Path, help="image file, DICOM too, or volume: .nii.gz or .nii")
    add_frame_option(parser)
    parser.add_argument(
        "--point", type=_point, action="append", metavar="X,Y[,LABEL]", help="label 1 (default) or 0; repeatable"
    )
    parser.add_argument("--box", type=_box, metavar="X0,Y0,X1,Y1", help="tight box, x1 and y1 exclusive")
    parser.add_argument(
        "--point-mm",
        type=_point,
        action="append",
        metavar="X,Y[,LABEL]",
        help="as --point, in mm from the upper left corner, where the file says how large a pixel is",
    )
    parser.add_argument("--box-mm", type=_box, metavar="X0,Y0,X1,Y1", help="as --box, in mm likewise")
    parser.add_argument("--mask", type=Path, metavar="FILE", help="mask of the image's size, not zero is the object")
    add_bundle_options(parser)
    add_zoom_option(parser)
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        metavar="OUT",
        help="mask or label map: .png (images), .npz, .nii.gz or .json; the objects of an image as a COCO file: "
        ".coco.json; or, of a DICOM image, as a DICOM segmentation: .dcm",
    )
    # None, as of the other options that are for images alone.
    parser.add_argument("--polygons", action="store_true", default=None, help="masks of a .coco.json as polygons")
    parser.add_argument("--overlay", type=Path, metavar="PNG", help="picture of the mask on the image")
    parser.add_argument(
        "--instances",
        type=Path,
        metavar="PNG",
        help="numbers of the objects, 16 bits; of bundles that prompt themselves",
    )
    add_measure_options(parser, _VARIATIONS)
    add_volume_options(parser)


def _run_segment(args: argparse.Namespace) -> Report:
    if is_nifti(args.image):
        return segment_volume(args)
    refuse_volume_options(args)
    if args.polygons and not (args.output and args.output.name.lower().endswith(COCO_SUFFIX)):
        raise WrongCallError(f"--polygons is for COCO files: give -o a name that ends in {COCO_SUFFIX}")
    image = read_scan(args.image, frame=args.frame, window=_centre_and_width(args.window))
    result = _segment(args, image)
    written = _write(args, image, result)
    measured = result.measure() if args.measure else None
    lines = [
        *_describe(result),
        *(_measured(measured) if measured else []),
        "  ".join(f"{stage} {value:.1f} ms" for stage, value in result.timings.items()) + f"  on {result.provider}",
        *(f"{kind}: {path}" for kind, path in written.items()),
    ]
    more = {"measurement": measured.to_dict()} if measured else {}
    return Report({**result.to_dict(), **more, **written}, "\n".join(lines))


def _segment(args: argparse.Namespace, image: samsdk.Scan) -> samsdk.Result:
    given = args.point or args.point_mm or []
    if args.point and args.point_mm:
        raise WrongCallError("give the points in pixels or in millimetres, --point or --point-mm, not both")
    places = [point[:2] for point in given] or None
    mask = read_image(args.mask) if args.mask else None
    if mask is not None:
        # Whatever the file's dtype: floats would be taken for logits.
        mask = (mask != 0) if mask.ndim == 2 else (mask != 0).any(axis=2)
    try:
        return samsdk.segment(
            image,
            points=places if args.point else None,
            labels=[point[2] for point in given] or None,
            box=args.box,
            points_mm=places if args.point_mm else None,
            box_mm=args.box_mm,
            mask=mask,
            zoom=args.zoom,
            variations=variations(args, _VARIATIONS),
            model=args.model,
            device=args.device,
            tier=args.tier,
        )
    except PromptError as error:
        if given or args.box is not None or args.box_mm is not None or mask is not None or args.zoom:
            raise
        # Whether one is needed, only the bundle knows.
        raise WrongCallError("give a prompt: --point X,Y[,LABEL], --box X0,Y0,X1,Y1 or --mask FILE") from error


def _write(args: argparse.Namespace, image: samsdk.Scan, result: samsdk.Result) -> dict[str, str]:
    """Write the files that were asked for; their paths by what they are."""
    written = {}
    if args.instances:
        if not isinstance(result, samsdk.AutoResult):
            raise WrongCallError("--instances is for bundles that prompt themselves")
        result.save_instances(args.instances)
        written["instances"] = str(args.instances)
    if args.output:
        save_result(result, args.output, args.image, polygons=bool(args.polygons))
        written["output"] = str(args.output)
    if args.overlay:
        write_png(args.overlay, result.overlay(image))
        written["overlay"] = str(args.overlay)
    return written


def _measured(measurement: Measurement) -> list[str]:
    """A line for each value in the best unit, with its range where there is one."""
    stability = measurement.stability
    ranges = stability.ranges if stability else {}
    lines = []
    for name, value in (measurement.mm or measurement.px).values().items():
        what, _, unit = name.rpartition("_")
        span = f"  ({ranges[name][0]:.1f} to {ranges[name][1]:.1f})" if name in ranges else ""
        lines.append(f"{what.replace('_', ' ')} {value:.1f} {unit}{span}")
    if stability:
        lines.append(f"agreement of {stability.variations} moved prompts {stability.agreement:.3f} (IoU)")
    return lines


def _describe(result: samsdk.Result) -> list[str]:
    if not isinstance(result, samsdk.SemanticResult):
        points = f"  points {len(result.points)}" if isinstance(result, samsdk.AutoResult) else ""
        certainty = f"score {result.score:.3f}  confidence {result.confidence:.3f}"
        return [f"{certainty}  area {result.area} px  box {result.box}{points}"]
    return [
        f"{number} {name}: area {region.area} px  box {region.box}"
        for (number, name), region in zip(result.labels.items(), result.regions, strict=True)
    ]
