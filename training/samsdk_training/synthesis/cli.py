"""`samsdk synthesise`, added to the program by an entry point. It needs no extra."""

import argparse
import json
from pathlib import Path
from typing import Any

from samsdk.command import Report, WrongCallError, add_command
from samsdk_training.data import LISTS
from samsdk_training.set_folder import SetFolder
from samsdk_training.synthesis.config import PRESETS, SynthesisConfig
from samsdk_training.synthesis.exemplars import choose_exemplars, summarise_slice
from samsdk_training.synthesis.folder import SHEET_FILE, write_synthetic_set
from samsdk_training.synthesis.pool import ImagePool, pictures_of, read_pool
from samsdk_training.synthesis.synthesiser import Synthesiser


def add_synthesise(commands: Any) -> None:
    """Add the command `synthesise`."""
    text = "make labelled images out of a few exemplars and images without labels"
    parser = add_command(commands, "synthesise", _run_synthesise, text)
    parser.add_argument("data", type=Path, metavar="DIR", help="a set: images/, and masks/ of at least the exemplars")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="OUT", help="folder of the new set")
    parser.add_argument("--count", type=_positive, required=True, metavar="N", help="images to make")
    parser.add_argument(
        "--exemplars",
        default="1",
        metavar="IDS|N",
        help="ids of images or slices with commas between (one numeric id ends in a comma), or how many to choose (1)",
    )
    parser.add_argument("--list", default=LISTS[0], choices=LISTS, help=f"the list of its ids ({LISTS[0]})")
    parser.add_argument(
        "--backgrounds", type=Path, metavar="FOLDER", help="images without labels; instead of those of the list"
    )
    parser.add_argument(
        "--preset",
        choices=tuple(PRESETS),
        default="organs",
        help="organs: each keeps its place; lesions: flipped all over the image; parts: of one organ, move together",
    )
    parser.add_argument(
        "--config",
        type=Path,
        metavar="FILE",
        help="JSON object with fields of SynthesisConfig that replace the preset's",
    )
    parser.add_argument("--seed", type=int, default=0)


def _run_synthesise(args: argparse.Namespace) -> Report:
    config = _read_config(args.config, PRESETS[args.preset])
    if args.seed < 0:
        raise WrongCallError(f"expected a seed of at least 0, got {args.seed}")
    source = SetFolder(args.data)
    pool = read_pool(source, args.list)
    exemplars = [pool.annotated[name] for name in _choose(args.exemplars, pool, config, args.seed)]
    backgrounds = pool if args.backgrounds is None else pictures_of(args.backgrounds)
    synthesiser = Synthesiser(exemplars, backgrounds.names, backgrounds.image, config, seed=args.seed)
    made = write_synthetic_set(synthesiser, args.output, args.count, source.class_names() or None)
    sheet = args.output / SHEET_FILE
    data = {
        "output": str(args.output),
        "images": len(made),
        "exemplars": synthesiser.exemplars,
        "backgrounds": len(synthesiser.backgrounds),
        "sheet": str(sheet),
    }
    text = (
        f"{args.output}: {len(made)} images from {len(exemplars)} exemplars ({', '.join(synthesiser.exemplars)}) "
        f"on {len(synthesiser.backgrounds)} backgrounds\nlook at them: {sheet}"
    )
    return Report(data, text)


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number from 1 on, got {text!r}")
    return int(text)


def _read_config(path: Path | None, base: SynthesisConfig) -> SynthesisConfig:
    if path is None:
        return base
    try:
        content = json.loads(path.read_bytes())
        if not isinstance(content, dict):
            raise ValueError("expected a JSON object")
        return SynthesisConfig.from_dict(content, base)
    except (OSError, ValueError) as error:
        raise WrongCallError(f"{path}: {error}") from error


def _choose(asked: str, pool: ImagePool, config: SynthesisConfig, seed: int) -> list[str]:
    if asked.isdecimal():
        slices = [summarise_slice(one) for one in pool.annotated.values() if not one.instances]
        return choose_exemplars(slices, int(asked), config, seed=seed)
    names = [name for name in asked.split(",") if name]
    for wrong in (name for name in names if name not in pool.annotated):
        reason = "has no mask" if wrong in pool.bare else "is none of the list's images, or slices of its volumes"
        raise WrongCallError(f"the exemplar {wrong!r} {reason}")
    return names
