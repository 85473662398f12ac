"""`samsdk calibrate`, added to the program by entry point."""

import argparse
import json
from pathlib import Path
from typing import Any

from samsdk import hub
from samsdk.bundle import Bundle
from samsdk.bundle_staging import write_changed
from samsdk.command import Report, WrongCallError, add_command
from samsdk.manifest import PROMPTABLE
from samsdk_training.calibration_fit import HeldOut, Scored, fit_calibration, held_out_errors, read_scored, rows_by_kind
from samsdk_training.set_folder import DataError


def add_calibrate(commands: Any) -> None:
    """Add the command `calibrate`."""
    text = "fit what a bundle's scores are worth, and write the bundle with what helps on sets that were left out"
    parser = add_command(commands, "calibrate", _run, text)
    parser.add_argument("bundle", help="bundle or name")
    parser.add_argument(
        "--scores",
        type=Path,
        required=True,
        metavar="FILE",
        help="rows that `samsdk evaluate BUNDLE --csv FILE` wrote, of two sets or more that did not teach the model "
        "and on which its accuracy is not reported",
    )
    parser.add_argument(
        "-o", "--output", type=Path, required=True, metavar="BUNDLE", help="folder or *.samsdk to write; may be BUNDLE"
    )


def _run(args: argparse.Namespace) -> Report:
    """Calibrate.

    The report's data:

    - `bundle`: the bundle's identity; `written`: where it was written, null if no kind of prompt got better.
    - `kinds`, by kind of prompt: `images`, `answers`, `improved`, and `held_out_error`: the expected calibration error
      `before` and `after` (see `held_out_errors`).
    """
    bundle = Bundle.open(hub.resolve_bundle(args.bundle))
    rows = rows_by_kind(_read(args.scores))
    _check(bundle, rows)
    judged = {kind: held_out_errors(found) for kind, found in rows.items()}
    better = {kind: rows[kind] for kind, errors in judged.items() if errors.improved}
    written = _write(bundle, better, judged, args.output) if better else None
    data = {
        "bundle": bundle.identity,
        "written": written and str(written),
        "kinds": {kind: _describe(rows[kind], errors) for kind, errors in judged.items()},
    }
    lines = [_line(kind, errors) for kind, errors in judged.items()]
    lines.append(
        f"bundle: {written}"
        if written
        else "nothing was written: on sets that were left out, the scores as they are were nearer to the truth. More "
        "sets may change that"
    )
    return Report(data, "\n".join(lines), failed=written is None)


def _read(path: Path) -> list[Scored]:
    if not path.is_file():
        raise WrongCallError(f"no file at {str(path)!r}: write it with `samsdk evaluate BUNDLE --data DIR --csv FILE`")
    return read_scored(path)


def _check(bundle: Bundle, rows: dict[str, list[Scored]]) -> None:
    manifest = bundle.manifest
    if manifest.task != PROMPTABLE:
        raise WrongCallError(f"a calibration is for {PROMPTABLE} bundles, {manifest.name} is {manifest.task}")
    if not rows:
        raise DataError("the table has no rows: nothing to fit a calibration to")
    lacking = [kind for kind in rows if kind not in manifest.prompt_kinds]
    if lacking:
        raise DataError(
            f"the rows are another model's: they answer {', '.join(lacking)}, {manifest.name} takes "
            f"{', '.join(manifest.prompt_kinds)}"
        )


def _write(bundle: Bundle, better: dict[str, list[Scored]], judged: dict[str, HeldOut], output: Path) -> Path:
    manifest = json.loads(bundle.read_manifest_text())
    manifest["calibration"] = {kind: fit_calibration(rows).to_dict() for kind, rows in better.items()}
    manifest["lineage"]["calibration"] = {kind: judged[kind].to_dict() for kind in better}
    return write_changed(bundle, output, manifest)


def _describe(rows: list[Scored], errors: HeldOut) -> dict[str, Any]:
    return {
        "images": len({(row.set_name, row.image) for row in rows}),
        "answers": len(rows),
        "improved": errors.improved,
        "held_out_error": errors.to_dict(),
    }


def _line(kind: str, errors: HeldOut) -> str:
    before, after = errors.means
    verdict = "kept" if errors.improved else "no better, left out"
    return (
        f"{kind}: expected calibration error of a left-out set, mean of {len(errors.before)}: {before:.3f} before, "
        f"{after:.3f} after: {verdict}"
    )
