"""`samsdk evaluate` and `samsdk train`, added to the program by entry points.

`evaluate` needs the runtime alone, so that devices can be measured; `train` imports torch when it runs.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import samsdk
from samsdk.cli import Report, WrongCallError, add_command
from samsdk.errors import MissingExtraError
from samsdk_training.data import LISTS, DataError, read_set
from samsdk_training.evaluation import evaluate_images, summarise


def add_evaluate(commands: Any) -> None:
    """Add the command `evaluate`."""
    text = "measure a bundle on labelled images, with simulated users"
    parser = add_command(commands, "evaluate", _run_evaluate, text)
    parser.add_argument("model", help="bundle or name")
    parser.add_argument(
        "--data", type=Path, required=True, metavar="DIR", help="a set (images/, masks/, a list), or a folder of sets"
    )
    parser.add_argument("--list", default="val.txt", choices=LISTS, help="the list of ids in each set (val.txt)")
    parser.add_argument("--clicks", type=_clicks, default=(1, 3), metavar="N,N", help="clicks to score after (1,3)")
    parser.add_argument("--images", type=int, metavar="N", help="only the first N of each list")
    parser.add_argument("--objects", type=int, default=8, metavar="N", help="at most N objects an image (8)")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")


def add_train(commands: Any) -> None:
    """Add the command `train`."""
    parser = add_command(commands, "train", _run_train, "train a model on labelled images")
    parser.add_argument("recipe", choices=("student",), help="student: a small promptable model for processors")
    parser.add_argument(
        "--data",
        type=Path,
        required=True,
        metavar="DIR",
        help="a set (images/, masks/, train.txt), or a folder of sets",
    )
    parser.add_argument(
        "-o", "--output", type=Path, required=True, metavar="RUN", help="folder; an interrupted run goes on"
    )
    parser.add_argument(
        "--model", type=Path, metavar="FILE", help="the model's shape, as a checkpoint's model.json has it"
    )
    parser.add_argument("--steps", type=int, default=20000, help="optimiser steps (20000)")
    parser.add_argument("--batch-size", type=int, default=16, help="objects a step (16)")
    parser.add_argument("--learning-rate", type=float, default=1e-3, help="the highest (0.001)")
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32", help="of the forward pass")
    parser.add_argument("--validate-every", type=int, default=500, metavar="N", help="steps between validations (500)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--licence", default="NOASSERTION", help="of the weights, as your data allows (SPDX)")


def _run_train(args: argparse.Namespace) -> Report:
    try:
        from samsdk_training.loop import LoopConfig
        from samsdk_training.models.sam import SamConfig, student_config
        from samsdk_training.recipes.student import StudentRecipe, train_student
        from samsdk_training.samples import SampleSet
    except ImportError as error:
        raise MissingExtraError(f"samsdk train needs {error.name}: pip install 'samsdk[train]'") from error
    try:
        loop = LoopConfig(
            steps=args.steps,
            learning_rate=args.learning_rate,
            warmup_steps=min(200, args.steps // 10),
            validate_every=args.validate_every,
            save_every=args.validate_every,
            precision=args.precision,
            seed=args.seed,
        )
        model = SamConfig.from_dict(json.loads(args.model.read_bytes())) if args.model else student_config()
    except (ValueError, OSError) as error:
        raise WrongCallError(str(error)) from error
    sets = [SampleSet(folder) for folder in _find_sets(args.data, "train.txt")]
    result = train_student(
        StudentRecipe(loop, model, batch_size=args.batch_size),
        sets,
        _find_sets(args.data, "val.txt"),
        args.output,
        licence={"id": args.licence, "source": "trained with samsdk", "attribution": "see lineage.sets"},
    )
    checkpoint = args.output / "best"
    text = f"best checkpoint: {checkpoint}\nexport it: samsdk export {checkpoint} -o BUNDLE"
    return Report({"run": str(args.output), "best": str(checkpoint), **result}, text)


def _clicks(text: str) -> tuple[int, ...]:
    if not all(part.isdecimal() and int(part) > 0 for part in text.split(",")):
        raise argparse.ArgumentTypeError(f"expected whole numbers from 1 on, as 1,3; got {text!r}")
    return tuple(int(part) for part in text.split(","))


def _run_evaluate(args: argparse.Namespace) -> Report:
    folders = _find_sets(args.data, args.list)
    predictor = samsdk.load(args.model, device=args.device)
    sets: dict[str, Any] = {}
    for folder in folders:
        sys.stderr.write(f"evaluating {folder.name}\n")
        images = read_set(folder, args.list, args.images)
        scores = list(evaluate_images(predictor, images, clicks=args.clicks, max_objects=args.objects))
        if scores:
            sets[folder.name] = summarise(scores)
    if not sets:
        raise DataError(f"no object of at least 30 pixels in {args.data}")
    prompts = list(next(iter(sets.values()))["dice"])
    mean = {prompt: sum(row["dice"][prompt] for row in sets.values()) / len(sets) for prompt in prompts}
    data = {"bundle": predictor.bundle.identity, "sets": sets, "mean_dice": mean}
    return Report(data, _table(sets, mean))


def _find_sets(data: Path, list_name: str) -> list[Path]:
    if (data / list_name).is_file():
        return [data]
    folders = sorted(path.parent for path in data.glob(f"*/{list_name}") if path.read_text(encoding="utf-8").strip())
    if not folders:
        raise WrongCallError(f"{data} is no set and holds none: found no {list_name} with ids in it")
    return folders


def _table(sets: dict[str, Any], mean: dict[str, float]) -> str:
    width = max(len(name) for name in (*sets, "mean over sets"))
    rows = [("Dice", "objects", list(mean))]
    rows += [(name, str(row["objects"]), [f"{row['dice'][one]:.3f}" for one in mean]) for name, row in sets.items()]
    rows.append(("mean over sets", "", [f"{value:.3f}" for value in mean.values()]))
    return "\n".join(
        f"{name:<{width}}  {count:>7}  " + "  ".join(f"{value:>5}" for value in values) for name, count, values in rows
    )
