"""`samsdk data check` and `samsdk data split`, added to the program by entry point; they need the runtime alone."""

import argparse
from pathlib import Path
from typing import Any

from samsdk.command import Report, add_command
from samsdk_training.data_check import check_set
from samsdk_training.set_folder import shortened
from samsdk_training.split import TRAIN_LIST, VALIDATION_LIST, split_set, write_split

_PATIENTS = "regular expression whose first group is the patient in an id, such as '^(pat[0-9]+)_'; else patients.csv"


def add_data(commands: Any) -> None:
    """Add the command `data`."""
    parser = commands.add_parser("data", help="labelled images to train on", description="Labelled images.")
    actions = parser.add_subparsers(title="actions", required=True, metavar="ACTION")
    check = add_command(actions, "check", _run_check, "say what a set holds and what is wrong with it")
    check.add_argument("folder", type=Path, metavar="DIR", help="a set: images/, masks/")
    check.add_argument("--patients", metavar="REGEX", help=_PATIENTS)
    split = add_command(actions, "split", _run_split, "hold back a part of a set for validation, patient by patient")
    split.add_argument("folder", type=Path, metavar="DIR", help="a set: images/, masks/")
    split.add_argument(
        "--held-back", type=_share, default=0.33, metavar="SHARE", help="of the images, for validation (0.33)"
    )
    split.add_argument("--patients", metavar="REGEX", help=_PATIENTS)
    split.add_argument("--seed", type=int, default=0, help="another seed is another split (0)")
    split.add_argument("--replace", action="store_true", help="replace train.txt and val.txt if they are there")
    split.add_argument(
        "-o",
        "--output",
        type=Path,
        metavar="DIR",
        help="write the lists into this folder, which then stands for the set",
    )


def _share(text: str) -> float:
    try:
        share = float(text)
    except ValueError:
        share = 0.0
    if not 0 < share < 1:
        raise argparse.ArgumentTypeError(f"expected a number between 0 and 1, got {text!r}")
    return share


def _run_check(args: argparse.Namespace) -> Report:
    report = check_set(args.folder, patients=args.patients)
    data = {"folder": str(args.folder), **report.to_dict()}
    return Report(data, report.text(), failed=bool(report.problems))


def _run_split(args: argparse.Namespace) -> Report:
    split = split_set(args.folder, args.held_back, patients=args.patients, seed=args.seed)
    folder = write_split(split, args.folder, args.output, replace=args.replace)
    parts = {TRAIN_LIST: split.train, VALIDATION_LIST: split.validation}
    count = len(set(split.patients.values()))
    data = {
        "folder": str(folder),
        "train": list(split.train),
        "validation": list(split.validation),
        "patients": count or None,
        "only_train": list(split.only_train),
        "only_validation": list(split.only_validation),
    }
    lines = [f"{folder / name}: {len(ids)} images" for name, ids in parts.items()]
    lines.append(f"{count} patients" if count else "patients unknown: each image counts as a patient of its own")
    for part, classes in (("training", split.only_train), ("validation", split.only_validation)):
        if classes:
            lines.append(f"only {part} images show the classes {shortened(map(str, classes))}")
    return Report(data, "\n".join(lines))
