"""`samsdk evaluate`, added to the program by entry point.

A bundle needs the runtime alone, so that devices can be measured; a checkpoint needs torch.
"""

import argparse
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any, cast

from samsdk.command import Report, WrongCallError, add_command
from samsdk.manifest import AUTO, PROMPTABLE, SEMANTIC, VOLUME
from samsdk.zoom import Zoom
from samsdk_training.data import DataError, LabelledImage, number_classes, part_of_list, read_set
from samsdk_training.evaluate_arguments import add_arguments
from samsdk_training.evaluation import (
    NO_PROMPT,
    PROMPTS,
    Measures,
    PassPerClass,
    Segmenter,
    VolumeSegmenter,
    class_cases,
    evaluate_images,
    foreground_cases,
    volume_cases,
)
from samsdk_training.evaluation.cases import FOREGROUND, CaseScores
from samsdk_training.evaluation.model import EvaluatedModel, is_checkpoint, open_bundle, open_checkpoint
from samsdk_training.evaluation.objects import SMALLEST
from samsdk_training.evaluation.report import report_sets, table, write_rows
from samsdk_training.evaluation.summary import Scores
from samsdk_training.metrics.empty import EmptyPolicy
from samsdk_training.metrics.intervals import LEVEL, RESAMPLES
from samsdk_training.set_arguments import find_sets
from samsdk_training.set_folder import SetFolder


def add_evaluate(commands: Any) -> None:
    """Add the command `evaluate`."""
    text = "measure a model on labelled images: with simulated users, or the classes that it finds by itself"
    parser = add_command(commands, "evaluate", _run, text)
    add_arguments(parser)


def _run(args: argparse.Namespace) -> Report:
    """Evaluate.

    The report's data, each key always there unless it says otherwise:

    - `bundle`: the bundle's identity, or null; `checkpoint`: the SHA-256 of the checkpoint's tensors, or null.
    - `task` of the model; `tier` of the bundle, or null; `prompts`: the names of those that it was asked with;
      `skipped`: why not with others that were wanted, by their names, only where there are any; `zoom`: `context` and
      `smallest`, or null.
    - `rules`: `list`, `share`, `images`, `objects`, `union`, `by_class`, `smallest_object` (pixels); `nsd` (tolerance,
      mm), `hd95` (convention), `spacing` and `protocol`, null where left out; `empty`: what a measure is worth where
      `both` masks are empty, and what a distance where `one` is (`metrics.empty.EmptyPolicy`), null under the transunet
      protocol, which has its own; `splitting` of the foreground into objects, or null; `interval`: its `level` and
      `resamples`.
    - `sets`, `mean_dice`, `mean_iou` and so on, `intervals`: see `report_sets`. Numbers stand by prompt; by class and
      for the mean over classes of a semantic model; for `foreground` of a model that finds it by itself: of both for
      the first of `prompts`, and `further` has the same of the others, only where there are any. Under the transunet
      protocol there is no IoU. `calibration`, in each of `sets`, only where objects were asked for.
    """
    measures = _measures(args)
    folders = find_sets(args.data, args.list)
    if args.csv is not None and not args.csv.absolute().parent.is_dir():
        # Said before hours of work, not after.
        raise WrongCallError(f"cannot write {str(args.csv)!r}: there is no such folder")
    model = _open(args)
    _check_call(model, args)
    prompts, skipped = _chosen_prompts(model, args)
    for word, reason in skipped.items():
        sys.stderr.write(f"not asked with {word}: {reason}\n")
    plan = _Plan(prompts, None if args.by_class else _wanted_zoom(model, args.zoom), measures)
    scores: dict[str, Scores] = {}
    for folder in folders:
        sys.stderr.write(f"evaluating {folder.name}\n")
        found = _score(model, folder, args, plan)
        if found:
            scores[folder.name] = found
    if not scores:
        what = f"object of at least {SMALLEST} pixels" if _asks_objects(model, args) else "image"
        raise DataError(f"no {what} in {args.data}")
    if args.csv is not None:
        write_rows(args.csv, scores)
    about = _about(model, plan, args)
    data = {**about, **({"skipped": skipped} if skipped else {}), **report_sets(scores)}
    left_out = "".join(f"\nnot asked with {word}: {reason}" for word, reason in skipped.items())
    return Report(data, table(data) + (f"\n{left_out}" if left_out else ""))


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
    if not _asks_objects(model, args):
        # Of each case there is one score a prompt.
        most = args.images and args.images * len(plan.prompts)
        return list(islice(_cases(model, folder, images, args, plan), most))
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


def _asks_objects(model: EvaluatedModel, args: argparse.Namespace) -> bool:
    return model.task == PROMPTABLE and not args.by_class


def _cases(
    model: EvaluatedModel, folder: Path, images: Iterable[LabelledImage], args: argparse.Namespace, plan: _Plan
) -> Iterator[CaseScores]:
    """The scores of a model that answers for whole images, or is asked for each class of them."""
    predictor = cast(Segmenter, model.predictor)
    if model.task == AUTO:
        return foreground_cases(
            predictor, images, prompts=plan.prompts, splitting=model.splitting, measures=plan.measures
        )
    if model.task == SEMANTIC:
        if not args.union:
            _check_names(folder, model.classes)
        return class_cases(predictor, images, model.classes, prompts=plan.prompts, measures=plan.measures)
    classes = {"0": "background", "1": FOREGROUND} if args.union else _set_classes(folder, args.list)
    asked = PassPerClass(predictor, classes)
    return class_cases(asked, images, classes, prompts=plan.prompts, measures=plan.measures)


def _set_classes(folder: Path, list_name: str) -> dict[str, str]:
    """The classes of a set, which a promptable model does not know: those that it names, else those that it shows."""
    names = SetFolder(folder).class_names()
    highest = 0 if names else max((int(one.label.max()) for one in read_set(folder, list_name)), default=0)
    classes = number_classes(names, highest)
    if len(classes) < 2:
        raise DataError(f"{folder} has no class to ask for: nothing in its {list_name} is labelled")
    return classes


def _open(args: argparse.Namespace) -> EvaluatedModel:
    if not is_checkpoint(args.model):
        return open_bundle(args.model, device=args.device or "auto", tier=args.tier)
    if args.device is not None or args.tier is not None:
        raise WrongCallError(
            f"{args.model} is a checkpoint, which runs in torch on the processor: leave --device and --tier out, or "
            "export it and evaluate the bundle"
        )
    return open_checkpoint(args.model)


def _check_call(model: EvaluatedModel, args: argparse.Namespace) -> None:
    """Refuse options that are not for this model."""
    names_classes = model.task in (SEMANTIC, VOLUME) or args.by_class
    if args.by_class and model.task != PROMPTABLE:
        raise WrongCallError(f"--by-class is for promptable models, {args.model} is {model.task}")
    if args.union and not names_classes:
        raise WrongCallError(f"--union is for models that name classes, {args.model} is {model.task}")
    if args.protocol is not None and not names_classes:
        raise WrongCallError(f"--protocol transunet is for models that name classes, {args.model} is {model.task}")
    if args.zoom and not _asks_objects(model, args):
        raise WrongCallError("the answer is of the whole image, there is nothing to look closer at: leave --zoom out")


def _chosen_prompts(model: EvaluatedModel, args: argparse.Namespace) -> tuple[tuple[str, ...], dict[str, str]]:
    """The prompts that a model is asked with, `none` first, and of the others that were wanted why it is not."""
    if args.prompts is None and model.task != PROMPTABLE:
        return (NO_PROMPT,), {}
    refusals = {word: model.refusal(word, by_class=args.by_class) for word in args.prompts or PROMPTS}
    chosen = sorted((word for word, reason in refusals.items() if reason is None), key=lambda word: word != NO_PROMPT)
    skipped = {word: reason for word, reason in refusals.items() if reason is not None}
    if not chosen:
        reasons = "; ".join(f"{word}: {reason}" for word, reason in skipped.items())
        raise WrongCallError(f"nothing is left to ask {args.model} with: {reasons}")
    return tuple(chosen), skipped if args.prompts else {}


def _wanted_zoom(model: EvaluatedModel, wanted: bool | None) -> Zoom | None:
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
            "by_class": args.by_class,
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
