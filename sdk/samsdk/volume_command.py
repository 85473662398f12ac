"""`samsdk segment` of a volume: what a bundle for volumes knows, or an object followed from a prompt on one slice."""

import argparse
import logging
import sys
import time
from typing import Any, Final

import samsdk
from samsdk.command import Report, WrongCallError, parse_numbers
from samsdk.io.nifti import read_nifti
from samsdk.predictor import Predictor
from samsdk.propagation import PropagationPlan, Session
from samsdk.volumes.predictor import VolumePredictor
from samsdk.volumes.result import VolumeResult
from samsdk.volumes.sliding import WindowPlan
from samsdk.volumes.volume import Volume

# What of a volume cannot be given or asked for: names of arguments and of their options.
_OF_IMAGES: Final = {
    "mask": "--mask",
    "overlay": "--overlay",
    "instances": "--instances",
    "frame": "--frame",
    "point_mm": "--point-mm",
    "box_mm": "--box-mm",
    "variations": "--variations",
    "polygons": "--polygons",
}
_PROMPTS: Final = {"point": "--point", "box": "--box"}
_OF_VOLUMES: Final = {"slice": "--slice", "axis": "--axis", "extent": "--extent"}
_WINDOW: Final = {"window": "--window"}
_log = logging.getLogger(__name__)


def add_volume_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that only volumes have to the command `segment`."""
    group = parser.add_argument_group(
        "volumes",
        "A bundle for volumes needs no prompt. With a bundle for images, the object that --box or --point show on one "
        "slice is followed through the others; X and Y are voxel indices.",
    )
    group.add_argument("--slice", type=_index, metavar="K", help="index of the slice that --box or --point are on")
    group.add_argument("--axis", choices=("z", "y", "x"), help="across which it is a slice; z when left out")
    group.add_argument(
        "--extent", type=_extent, metavar="FIRST,LAST", help="slices between which the object is, if that is known"
    )
    group.add_argument(
        "--window",
        type=_window,
        metavar="LOW,HIGH",
        help="numbers of a volume or a DICOM image to tell apart, such as -160,240 of CT",
    )


def refuse_volume_options(args: argparse.Namespace) -> None:
    """Check that nothing was given with an image that only volumes have.

    Raises:
        WrongCallError: something was.
    """
    given = _given(args, _OF_VOLUMES)
    if given:
        raise WrongCallError(f"{' and '.join(given)} are for volumes (.nii.gz or .nii), got the image {args.image}")


def segment_volume(args: argparse.Namespace) -> Report:
    """Run the command `segment` on a NIfTI file.

    Raises:
        WrongCallError: the options do not fit a volume, or the bundle.
        SamsdkError: as `VolumePredictor.segment` and `Session.prompt`.
    """
    given = _given(args, _OF_IMAGES)
    if given:
        raise WrongCallError(f"{' and '.join(given)} are for images, got the volume {args.image}")
    begun = time.perf_counter()
    predictor = samsdk.load(args.model, device=args.device, tier=args.tier)
    if isinstance(predictor, VolumePredictor):
        given = _given(args, {**_PROMPTS, **_OF_VOLUMES, **_WINDOW}) + (["--zoom"] if args.zoom else [])
        if given:
            raise WrongCallError(
                f"{predictor.manifest.name} finds what it knows by itself; leave {' and '.join(given)} out"
            )
        volume = read_nifti(args.image)
        plan = predictor.plan(volume)
        details: dict[str, Any] = {"memory": _state(plan, f"{plan.windows} windows")}
        result = predictor.segment(volume, progress=_report)
    else:
        _check_prompt(args, predictor)
        result, details = _follow(args, predictor, read_nifti(args.image))
    seconds = time.perf_counter() - begun
    written = {}
    if args.output:
        result.save(args.output)
        written["output"] = str(args.output)
    data = {**result.to_dict(), **details, "seconds": round(seconds, 3), **written}
    return Report(
        data, "\n".join([*_describe(result, data, seconds), *(f"{k}: {path}" for k, path in written.items())])
    )


def _check_prompt(args: argparse.Namespace, predictor: Predictor) -> None:
    if args.slice is None or not (args.box or args.point):
        raise WrongCallError(
            f"{predictor.manifest.name} is a bundle for images: show it the object on one slice of the volume, with "
            "--slice K and --box X0,Y0,X1,Y1 or --point X,Y; or name a bundle for volumes with --model"
        )


def _follow(args: argparse.Namespace, predictor: Predictor, volume: Volume) -> tuple[VolumeResult, dict[str, Any]]:
    session = Session(predictor, volume, axis=args.axis or "z", scale=args.window, zoom=args.zoom)
    # What the engine takes shows when it has run.
    predictor.warm_up()
    plan = session.plan(args.extent)
    memory = _state(plan, f"up to {plan.slices} slices")
    result = session.prompt(
        args.slice,
        points=[point[:2] for point in args.point] if args.point else None,
        labels=[point[2] for point in args.point] if args.point else None,
        box=args.box,
        extent=args.extent,
        progress=_report,
    )
    found = session.found
    slices = {"first": min(found), "last": max(found), "count": len(found)} if found else None
    scores = {str(index): round(one.score, 4) for index, one in found.items()}
    return result, {"axis": session.planes.axis, "slices": slices, "scores": scores, "memory": memory}


def _state(plan: WindowPlan | PropagationPlan, work: str) -> dict[str, float | None]:
    """Say on stderr what is about to be taken; the same for `--json`."""
    own = round(plan.peak_bytes / 1e6, 1)
    process = None if plan.process_bytes is None else round(plan.process_bytes / 1e6, 1)
    whole = "beside the volume and the engine" if process is None else f"of {process:.0f} MB that the process takes"
    sys.stderr.write(f"samsdk: {work}, at most {own:.0f} MB of memory {whole}\n")
    sys.stderr.flush()
    return {"peak_mb": own, "process_mb": process}


def _describe(result: VolumeResult, data: dict[str, Any], seconds: float) -> list[str]:
    voxels = result.voxels
    lines = [f"{name}: {volume:.2f} mL  {voxels[name]} voxels" for name, volume in result.volumes_ml().items()]
    if "slices" in data:
        slices = data["slices"]
        lines.append(
            f"slices {slices['first']} to {slices['last']} across {data['axis']}"
            if slices
            else "nothing was found there"
        )
    return [*lines, f"{seconds:.1f} s  on {result.provider}"]


def _report(done: int, most: int) -> None:
    _log.info("%d of at most %d", done, most)


def _given(args: argparse.Namespace, options: dict[str, str]) -> list[str]:
    return [option for name, option in options.items() if getattr(args, name) is not None]


def _index(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"expected the index of a slice, 0 or more, got {text!r}")
    return int(text)


def _extent(text: str) -> tuple[int, int]:
    first, last = parse_numbers(text, (2,), "FIRST,LAST")
    if first != int(first) or last != int(last):
        raise argparse.ArgumentTypeError(f"expected two indices of slices, got {text!r}")
    return int(first), int(last)


def _window(text: str) -> tuple[float, float]:
    low, high = parse_numbers(text, (2,), "LOW,HIGH")
    return low, high
