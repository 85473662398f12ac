"""Installs the peers, each in an environment of its own, from its own package, by exact versions.

    python benchmarks/peers/install.py [NAME ...] [--folder DIR]

NAME is an environment (see `catalogue.ENVIRONMENTS`); all are installed when none is named. What is installed already
is left as it is; what failed or has changed is made again. Says of each whether it is installed, which means that its
peers load, and why not. Nothing but PyPI is asked. The folder is `$SAMSDK_CACHE_DIR/peers`, or `samsdk/peers` in the
platform's cache folder.
"""

import argparse
import json
import shutil
import subprocess
import sys
import venv
from pathlib import Path
from typing import Any

from catalogue import ENVIRONMENTS, HERE, PEERS, RECORD, Environment, find_environment, load_request, peers_folder
from process import Worker, WorkerError

# torch brings what it needs; a range or a name without a version would bring another build, gigabytes larger.
FIRST = "torch=="
_REASON_LINES = 4
# Holds the fingerprint of the requirements once all of them are installed.
_MARKER = "packages.sha256"


class InstallError(RuntimeError):
    """A step of an installation failed; the text says which and what it last said."""


def install(environment: Environment, constraints: Path | None = None) -> dict[str, Any]:
    """Make an environment, unless it is there as it should be; packages that are there are not installed again.

    Args:
        environment: which.
        constraints: versions of what torch brings.

    Returns:
        The record, as it is kept in the environment's folder: `fingerprints`, and `versions` of packages or `error`.
    """
    known = environment.record
    if known.get("fingerprints") == environment.fingerprints and environment.unavailable is None:
        return known
    record: dict[str, Any] = {"fingerprints": environment.fingerprints}
    try:
        record["versions"] = _make(environment, constraints)
    except InstallError as error:
        record["error"] = str(error)
    _write(environment.folder / RECORD, json.dumps(record, indent=1) + "\n")
    return record


def _make(environment: Environment, constraints: Path | None) -> dict[str, str]:
    python, packages = str(environment.python), environment.fingerprints["packages"]
    marker = environment.folder / "env" / _MARKER
    if not (environment.python.exists() and marker.is_file() and marker.read_text(encoding="utf-8") == packages):
        if environment.folder.exists():
            shutil.rmtree(environment.folder)
        venv.create(environment.folder / "env")
        _install_packages(environment, constraints)
        _write(marker, packages)
    if environment.preparation:
        _run("preparing the graphs", [python, str(environment.preparation), str(environment.folder)])
    _try_workers(environment)
    frozen = _run("listing the packages", [*_pip(environment), "freeze", "--disable-pip-version-check"])
    return dict(line.split("==", 1) for line in frozen.splitlines() if "==" in line)


def _install_packages(environment: Environment, constraints: Path | None) -> None:
    # Python compiles what is really imported, when the workers are tried: a small part of torch.
    quiet = ["--quiet", "--disable-pip-version-check", "--no-compile"]
    pip = [*_pip(environment), "install", *quiet]
    for pin in _pins(environment.requirements):
        if pin.startswith(FIRST):
            limits = ["-c", str(constraints)] if constraints else []
            _run("installing torch", [*pip, *limits, pin])
    # Everything is named in the file. What packages ask for besides: torchvision and timm (see `stand_ins`), graphical
    # interfaces, other versions of torch.
    _run("installing the packages", [*pip, "--no-deps", "-r", str(environment.requirements)])


def _pip(environment: Environment) -> list[str]:
    # This environment's pip works on the other one, which so needs none of its own.
    return [sys.executable, "-m", "pip", "--python", str(environment.python)]


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.tmp")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)


def _try_workers(environment: Environment) -> None:
    """Let each peer of the environment load once: packages that install may still not work here."""
    for peer in PEERS:
        if peer.environment == environment.name:
            try:
                with Worker(environment.python, HERE / peer.worker) as worker:
                    worker.load(load_request(peer, environment))
            except WorkerError as error:
                raise InstallError(f"loading failed: {error}") from error


def _pins(requirements: Path) -> list[str]:
    lines = (line.split("#", 1)[0].strip() for line in requirements.read_text(encoding="utf-8").splitlines())
    return [line for line in lines if line]


def _run(what: str, command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        said = [line.strip() for line in (done.stderr or done.stdout).splitlines() if line.strip()]
        # Warnings tell of the user's index settings, not of what failed.
        said = [line for line in said if not line.startswith("WARNING")] or said
        raise InstallError(f"{what} failed: {' | '.join(said[-_REASON_LINES:]) or f'status {done.returncode}'}")
    return done.stdout


def main(arguments: list[str] | None = None) -> int:
    """Install and report; 0 if all that were asked for are installed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(ENVIRONMENTS))
    parser.add_argument("--folder", type=Path, default=None)
    args = parser.parse_args(arguments)
    unknown = sorted(set(args.names) - set(ENVIRONMENTS))
    if unknown:
        parser.error(f"unknown: {', '.join(unknown)}; expected some of {', '.join(ENVIRONMENTS)}")
    folder = (args.folder or peers_folder()).resolve()
    failed = 0
    for name in args.names or ENVIRONMENTS:
        print(f"{name}: ", end="", flush=True)
        record = install(find_environment(name, folder), Path(__file__).parents[2] / "constraints.txt")
        failed += "error" in record
        print(f"not installed: {record['error']}" if "error" in record else "installed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
