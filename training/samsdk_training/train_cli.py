"""`samsdk train`, added to the program by entry point; it imports torch when it runs."""

import argparse
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from samsdk.command import Report, WrongCallError, add_command
from samsdk.errors import MissingExtraError
from samsdk.hub import DEFAULT_MODEL
from samsdk_training.set_arguments import find_sets
from samsdk_training.split import TRAIN_LIST, VALIDATION_LIST

_LITE_MEDSAM: Final = "lite-medsam"
# What each recipe makes, and the base that it starts from unless another is given.
RECIPES: Final[Mapping[str, tuple[str, str | None]]] = {
    "adapt": ("the default model fine-tuned on 10 to 50 of your images, in minutes", DEFAULT_MODEL),
    "lite_medsam": ("a promptable model fine-tuned by low-rank weights", _LITE_MEDSAM),
    "samed": ("a model that names the class of each pixel, without prompts", _LITE_MEDSAM),
    "samed_s": ("the same with fewer trained weights", _LITE_MEDSAM),
    "cheap_lunch": ("the same from a few annotated images", _LITE_MEDSAM),
    "sac": ("a model that prompts itself", _LITE_MEDSAM),
    "sam_med2d": ("a promptable model with adapters, trained by corrections", _LITE_MEDSAM),
    "autoprosam": ("a model that names the class of each voxel of a volume, without prompts", None),
    "swin_unetr": ("the same for processors, by itself or from an autoprosam", None),
    "student": ("a small promptable model for processors, from random weights", None),
}
# Flags that change a recipe's own fields: the part of the recipe, and the field.
_FLAGS: Final = {
    "steps": ("loop", "steps"),
    "learning_rate": ("loop", "learning_rate"),
    "precision": ("loop", "precision"),
    "seed": ("loop", "seed"),
    "batch_size": (None, "batch_size"),
}


@dataclass(frozen=True)
class _Entry:
    default: Callable[[], Any]
    from_dict: Callable[[object], Any]
    train: Callable[..., dict[str, Any]]


def add_train(commands: Any) -> None:
    """Add the command `train`."""
    parser = add_command(commands, "train", _run, "train a model on labelled images")
    made = "; ".join(f"{name}: {text}" for name, (text, _) in RECIPES.items())
    parser.add_argument("recipe", choices=tuple(RECIPES), metavar="RECIPE", help=made)
    parser.add_argument(
        "--data",
        type=Path,
        required=True,
        metavar="DIR",
        help="a set with train.txt and val.txt (`samsdk data split` writes them), or a folder of sets",
    )
    parser.add_argument(
        "-o", "--output", type=Path, required=True, metavar="RUN", help="folder; an interrupted run goes on"
    )
    parser.add_argument(
        "--base",
        metavar="CHECKPOINT",
        help=f"folder of a checkpoint, or a name: {DEFAULT_MODEL}, {_LITE_MEDSAM}; each recipe has its own",
    )
    parser.add_argument(
        "--config", type=Path, metavar="FILE", help="JSON with the fields of the recipe that differ from its defaults"
    )
    parser.add_argument("--steps", type=int, metavar="N", help="optimiser steps")
    parser.add_argument("--batch-size", type=int, metavar="N", help="images or objects a step")
    parser.add_argument("--learning-rate", type=float, metavar="RATE", help="the highest")
    parser.add_argument("--precision", choices=("float32", "bfloat16"), help="of the forward pass")
    parser.add_argument("--validate-every", type=int, metavar="N", help="steps between validations")
    parser.add_argument("--seed", type=int, metavar="N")
    parser.add_argument("--licence", default="NOASSERTION", help="of the weights, as your data allows (SPDX)")
    student = parser.add_argument_group("recipe student")
    student.add_argument("--plan", type=Path, metavar="FILE", help="sets, teacher, shape and stages in one file")
    student.add_argument("--model", type=Path, metavar="FILE", help="the shape, as a checkpoint's model.json has it")
    student.add_argument("--start", type=Path, metavar="CHECKPOINT", help="start from these weights, not random ones")


def _run(args: argparse.Namespace) -> Report:
    _expect_fitting(args)
    try:
        result = _train_student(args) if args.recipe == "student" else _train(args)
    except ImportError as error:
        raise MissingExtraError(f"samsdk train needs {error.name}: pip install 'samsdk[train]'") from error
    lines = [f"best checkpoint: {result['best']}", f"export it: samsdk export {result['best']} -o BUNDLE"]
    if "before_after" in result:
        from samsdk_training.recipes.before_after import describe

        lines.insert(0, describe(result["before_after"]))
    if result.get("best_step") == 0:
        lines.insert(
            0, "nothing that was learned was better on held-back images: the best checkpoint is the base itself"
        )
    return Report({"run": str(args.output), **result}, "\n".join(lines))


def _expect_fitting(args: argparse.Namespace) -> None:
    own, others = ("plan", "model", "start"), ("base", "config")
    wrong = others if args.recipe == "student" else own
    given = [f"--{name}" for name in wrong if getattr(args, name) is not None]
    if given:
        raise WrongCallError(f"the recipe {args.recipe} does not take {', '.join(given)}")


def _train(args: argparse.Namespace) -> dict[str, Any]:
    from samsdk_training.bases import find_base

    entry = _entries()[args.recipe]
    recipe = _configured(entry, args)
    default = RECIPES[args.recipe][1]
    # What needs no base takes any checkpoint for one, what was merged included.
    base = (args.base and Path(args.base)) if default is None else find_base(args.base or default)
    sets = find_sets(args.data, TRAIN_LIST)
    result = entry.train(recipe, base, sets, args.output, licence=_licence(args))
    return {"best": str(args.output / "best"), **result}


def _licence(args: argparse.Namespace) -> dict[str, str]:
    return {"id": args.licence, "source": "trained with samsdk", "attribution": "see lineage.sets"}


def _entries() -> dict[str, _Entry]:
    from samsdk_training.recipes import adapt, lite_medsam, sac, sam_med2d, semantic, volume_recipe

    def labels(default: Callable[[], semantic.SemanticRecipe]) -> _Entry:
        return _Entry(default, semantic.SemanticRecipe.from_dict, semantic.train_semantic)

    def volumes(default: Callable[[], volume_recipe.VolumeRecipe]) -> _Entry:
        return _Entry(default, volume_recipe.VolumeRecipe.from_dict, _train_volume)

    return {
        "adapt": _Entry(adapt.AdaptRecipe, adapt.AdaptRecipe.from_dict, adapt.train_adapt),
        "lite_medsam": _Entry(
            lite_medsam.LiteMedSamRecipe, lite_medsam.LiteMedSamRecipe.from_dict, lite_medsam.train_lite_medsam
        ),
        "samed": labels(semantic.samed),
        "samed_s": labels(semantic.samed_s),
        "cheap_lunch": labels(semantic.cheap_lunch),
        "sac": _Entry(sac.SacRecipe, sac.SacRecipe.from_dict, sac.train_sac),
        "sam_med2d": _Entry(sam_med2d.SamMed2dRecipe, sam_med2d.SamMed2dRecipe.from_dict, sam_med2d.train_sam_med2d),
        "autoprosam": volumes(volume_recipe.autoprosam),
        "swin_unetr": volumes(volume_recipe.swin_unetr),
    }


def _train_volume(
    recipe: Any, base: Path | None, sets: list[Path], run: Path, *, licence: dict[str, str]
) -> dict[str, Any]:
    # Imported for these recipes alone: it imports MONAI, which takes seconds.
    from samsdk_training.recipes.autoprosam import train_volume

    return train_volume(recipe, base, sets, run, licence=licence)


def _configured(entry: _Entry, args: argparse.Namespace) -> Any:
    """The recipe's defaults, changed by the file, changed by the flags."""
    content = entry.default().to_dict()
    try:
        if args.config is not None:
            content = _merged(content, json.loads(args.config.read_bytes()))
        for flag, (part, field) in _FLAGS.items():
            if getattr(args, flag) is not None:
                (content if part is None else content[part])[field] = getattr(args, flag)
        _fit_schedule(content["loop"], args)
        return entry.from_dict(content)
    except (OSError, ValueError, TypeError) as error:
        raise WrongCallError(f"{args.config or args.recipe}: {error}") from error


def _merged(content: Mapping[str, Any], changes: object) -> dict[str, Any]:
    if not isinstance(changes, Mapping):
        raise ValueError(f"expected a JSON object with fields of the recipe, got {type(changes).__name__}")
    unknown = sorted(changes.keys() - content.keys())
    if unknown:
        raise ValueError(f"unknown fields: {', '.join(unknown)}; the recipe has: {', '.join(content)}")
    both = {name for name in changes if isinstance(changes[name], Mapping) and isinstance(content[name], Mapping)}
    return {**content, **changes, **{name: _merged(content[name], changes[name]) for name in both}}


def _fit_schedule(loop: dict[str, Any], args: argparse.Namespace) -> None:
    """Shorter runs warm up for a tenth of their steps at most, and their rates decay within them."""
    if args.steps is not None:
        loop["warmup_steps"] = min(loop["warmup_steps"], args.steps // 10)
        loop["decay_steps"] = None
    if args.validate_every is not None:
        loop["validate_every"] = loop["save_every"] = args.validate_every


def _train_student(args: argparse.Namespace) -> dict[str, Any]:
    from samsdk_training.loop import LoopConfig
    from samsdk_training.models.sam_config import SamConfig, student_config
    from samsdk_training.recipes.student import StudentRecipe, train_student
    from samsdk_training.recipes.student_plan import read_plan, run_plan
    from samsdk_training.samples import SampleSet

    if args.plan is not None:
        return {"best": str(run_plan(read_plan(args.plan), args.data, args.output))}
    steps, every = args.steps or 20000, args.validate_every or 500
    try:
        loop = LoopConfig(
            steps=steps,
            learning_rate=args.learning_rate or 1e-3,
            warmup_steps=min(200, steps // 10),
            validate_every=every,
            save_every=every,
            precision=args.precision or "float32",
            seed=args.seed or 0,
        )
        model = SamConfig.from_dict(json.loads(args.model.read_bytes())) if args.model else student_config()
    except (ValueError, OSError) as error:
        raise WrongCallError(str(error)) from error
    result = train_student(
        StudentRecipe(loop, model, batch_size=args.batch_size or 16),
        [SampleSet(folder) for folder in find_sets(args.data, TRAIN_LIST)],
        find_sets(args.data, VALIDATION_LIST),
        args.output,
        licence=_licence(args),
        start=args.start,
    )
    return {"best": str(args.output / "best"), **result}
