"""`samsdk evaluate`, added to the program by entry point.

A bundle needs the runtime alone, so that devices can be measured; a checkpoint needs torch.
"""

import argparse
import math
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Final, cast

from samsdk.command import Report, WrongCallError, add_command
from samsdk.manifest import AUTO, PROMPTABLE, SEMANTIC, VOLUME
from samsdk.zoom import Zoom
from samsdk_training.data import LISTS, DataError, part_of_list, read_set
from samsdk_training.evaluation import (
    BOX,
    PROMPTS,
    Measures,
    Segmenter,
    VolumeSegmenter,
    class_cases,
    evaluate_images,
    foreground_cases,
    point_count,
    volume_cases,
)
from samsdk_training.evaluation.model import EvaluatedModel, is_checkpoint, open_bundle, open_checkpoint
from samsdk_training.evaluation.objects import SMALLEST
from samsdk_training.evaluation.report import NO_PROMPT, report_sets, table, write_rows
from samsdk_training.evaluation.summary import Scores
from samsdk_training.metrics.empty import EmptyPolicy
from samsdk_training.metrics.intervals import LEVEL, RESAMPLES
from samsdk_training.set_arguments import find_sets
from samsdk_training.set_folder import SetFolder

_TRANSUNET: Final = "transunet"


def add_evaluate(commands: Any) -> None:
    """Add the command `evaluate`."""
    text = "measure a model on labelled images: with simulated users, or the classes that it finds by itself"
    parser = add_command(commands, "evaluate", _run, text)
    parser.add_argument("model", help="bundle or name, or a checkpoint's folder")
    parser.add_argument(
        "--data", type=Path, required=True, metavar="DIR", help="a set (images/, masks/, a list), or a folder of sets"
    )
    parser.add_argument(
        "--prompts",
        type=_prompts,
        metavar="WORD,WORD",
        help=f"box, pointN for N clicks, none; {','.join(PROMPTS)}, or none for a model that takes no prompt",
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
        help="all labels are one class, as `union` in a recipe; of a model that names classes",
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
        choices=(_TRANSUNET,),
        help="Dice and HD95 of a semantic model's volumes by the rules of TransUNet's tables, for comparison alone",
    )


def _run(args: argparse.Namespace) -> Report:
    """Evaluate.

    The report's data, each key always there unless it says otherwise:

    - `bundle`: the bundle's identity, or null; `checkpoint`: the SHA-256 of the checkpoint's tensors, or null.
    - `task` of the model; `tier` of the bundle, or null; `prompts`: their names; `zoom`: `context` and `smallest`, or
      null.
    - `rules`: `list`, `share`, `images`, `objects`, `union`, `smallest_object` (pixels); `nsd` (tolerance, mm), `hd95`
      (convention), `spacing` and `protocol`, null where left out; `empty`: what a measure is worth where `both` masks
      are empty, and what a distance where `one` is (`metrics.empty.EmptyPolicy`), null under the transunet protocol,
      which has its own; `splitting` of the foreground into objects, or null; `interval`: its `level` and `resamples`.
    - `sets`, `mean_dice`, `mean_iou` and so on, `intervals`: see `report_sets`. Numbers stand by prompt; by class and
      for the mean over classes of a semantic model; for `foreground` of a model that finds it by itself. Under the
      transunet protocol there is no IoU. `calibration`, in each of `sets`, only with prompts.
    """
    measures = _measures(args)
    folders = find_sets(args.data, args.list)
    if args.csv is not None and not args.csv.absolute().parent.is_dir():
        # Said before hours of work, not after.
        raise WrongCallError(f"cannot write {str(args.csv)!r}: there is no such folder")
    model = _open(args)
    plan = _Plan(_checked_prompts(model, args), _checked_zoom(model, args.zoom), measures)
    if args.union and model.task not in (SEMANTIC, VOLUME):
        raise WrongCallError(f"--union is for models that name classes, {args.model} is {model.task}")
    if measures.transunet and model.task not in (SEMANTIC, VOLUME):
        raise WrongCallError(f"--protocol transunet is for models that name classes, {args.model} is {model.task}")
    scores: dict[str, Scores] = {}
    for folder in folders:
        sys.stderr.write(f"evaluating {folder.name}\n")
        found = _score(model, folder, args, plan)
        if found:
            scores[folder.name] = found
    if not scores:
        what = "image" if plan.prompts == (NO_PROMPT,) else f"object of at least {SMALLEST} pixels"
        raise DataError(f"no {what} in {args.data}")
    if args.csv is not None:
        write_rows(args.csv, scores)
    data = {**_about(model, plan, args), **report_sets(scores)}
    return Report(data, table(data))


@dataclass(frozen=True)
class _Plan:
    """What a model is asked, and what is measured of its answers."""

    prompts: tuple[str, ...]
    zoom: Zoom | None
    measures: Measures


def _score(model: EvaluatedModel, folder: Path, args: argparse.Namespace, plan: _Plan) -> Scores:
    part = part_of_list(folder, args.list, args.share)
    if model.task == VOLUME:
        if not args.union:
            _check_names(folder, model.classes)
        source, volumes = SetFolder(folder), cast(VolumeSegmenter, model.predictor)
        ids = source.ids(args.list)[part][: args.images]
        return list(volume_cases(volumes, source, ids, model.classes, union=args.union, measures=plan.measures))
    predictor = cast(Segmenter, model.predictor)
    images = read_set(folder, args.list, part)
    if args.union:
        images = (one.united() for one in images)
    if model.task == SEMANTIC:
        if not args.union:
            _check_names(folder, model.classes)
        cases = class_cases(predictor, images, model.classes, measures=plan.measures)
        return list(islice(cases, args.images))
    if plan.prompts == (NO_PROMPT,):
        cases = foreground_cases(predictor, images, splitting=model.splitting, measures=plan.measures)
        return list(islice(cases, args.images))
    return list(
        evaluate_images(
            predictor,
            islice(images, args.images),
            prompts=plan.prompts,
            max_objects=args.objects,
            feed_mask="mask" in model.kinds,
            zoom=plan.zoom,
            measures=plan.measures,
        )
    )


def _open(args: argparse.Namespace) -> EvaluatedModel:
    if not is_checkpoint(args.model):
        return open_bundle(args.model, device=args.device or "auto", tier=args.tier)
    if args.device is not None or args.tier is not None:
        raise WrongCallError(
            f"{args.model} is a checkpoint, which runs in torch on the processor: leave --device and --tier out, or "
            "export it and evaluate the bundle"
        )
    return open_checkpoint(args.model)


def _checked_prompts(model: EvaluatedModel, args: argparse.Namespace) -> tuple[str, ...]:
    if model.task != PROMPTABLE:
        if args.prompts not in (None, (NO_PROMPT,)):
            raise WrongCallError(f"{args.model} is {model.task} and takes no prompt: leave --prompts out, or say none")
        return (NO_PROMPT,)
    if args.prompts is None:
        return tuple(word for word in PROMPTS if ("box" if word == BOX else "points") in model.kinds)
    if NO_PROMPT in args.prompts:
        raise WrongCallError(f"{args.model} answers to prompts ({', '.join(model.kinds)}): none is nothing to ask it")
    return tuple(args.prompts)


def _checked_zoom(model: EvaluatedModel, wanted: bool | None) -> Zoom | None:
    if model.task != PROMPTABLE and wanted:
        raise WrongCallError("without a prompt there is nothing to look closer at: leave --zoom out")
    if wanted is None:
        return model.advice
    return (model.advice or Zoom()) if wanted else None


def _check_names(folder: Path, classes: Mapping[str, str]) -> None:
    """Refuse a set that has the model's classes under other numbers."""
    numbers = {name: int(number) for number, name in classes.items()}
    for number, name in SetFolder(folder).class_names().items():
        if numbers.get(name, number) != number:
            raise DataError(f"{folder} calls class {number} {name}, which is class {numbers[name]} of the model")


def _measures(args: argparse.Namespace) -> Measures:
    if args.protocol is None:
        empty = EmptyPolicy(both=args.empty or "undefined")
        if args.spacing is not None and args.nsd is None and args.hd95 is None:
            raise WrongCallError("--spacing is for --nsd and --hd95: give one of them")
        return Measures(args.nsd, args.hd95, args.spacing, empty)
    if any(one is not None for one in (args.nsd, args.hd95, args.spacing, args.empty)):
        raise WrongCallError(
            "the transunet protocol measures Dice and HD95 in voxels, with a rule of its own for empty masks: leave "
            "--nsd, --hd95, --spacing and --empty out"
        )
    return Measures(transunet=True)


def _about(model: EvaluatedModel, plan: _Plan, args: argparse.Namespace) -> dict[str, Any]:
    return {
        "bundle": model.bundle,
        "checkpoint": model.checkpoint,
        "task": model.task,
        "tier": model.tier,
        "prompts": list(plan.prompts),
        "zoom": plan.zoom and asdict(plan.zoom),
        "rules": {
            "list": args.list,
            "share": list(args.share),
            "images": args.images,
            "objects": args.objects,
            "union": args.union,
            "smallest_object": SMALLEST,
            "nsd": args.nsd,
            "hd95": args.hd95,
            "spacing": args.spacing and list(args.spacing),
            "protocol": args.protocol,
            "empty": None if plan.measures.transunet else asdict(plan.measures.empty),
            "splitting": model.splitting.to_dict() if model.task == AUTO else None,
            "interval": {"level": LEVEL, "resamples": RESAMPLES},
        },
    }


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
    if NO_PROMPT in words and len(words) > 1:
        raise argparse.ArgumentTypeError(f"none goes with no other prompt, got {text!r}")
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
