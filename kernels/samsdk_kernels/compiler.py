"""Machine code of the CUDA kernels, for one GPU generation at a time.

    python -m samsdk_kernels.compiler sm86 sm89 [-o FOLDER]

compiles ahead of time with nvcc, no GPU needed. Files are named by the hash of their source; in `kernels_folder()` they
are found by `samsdk_kernels.launch`, so that a device needs no compiler. What is not found there is compiled at run
time by NVRTC through cuda-core (extra `tensorrt`), and kept there.
"""

import argparse
import functools
import hashlib
import importlib
import logging
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

from samsdk.errors import BackendError, MissingExtraError, OutputError
from samsdk.hub import cache_dir
from samsdk.io.atomic import atomic_path, atomic_write

logger = logging.getLogger(__name__)

SOURCES: Final = Path(__file__).parent / "cuda"
PROGRAMS: Final = {"preprocess": ("preprocess_float16", "preprocess_float32"), "postprocess": ("postprocess",)}
"""Each source file, without its suffix, and the kernels in it."""

TARGETS: Final = ("sm80", "sm86", "sm89", "sm90", "sm120")
"""The generations that the kernels are tested to compile for."""

# Neither OpenCV nor NumPy fuses a product with a sum, and a fused one rounds otherwise. The rest are the defaults:
# divisions are exact, small numbers are kept.
_NVCC_OPTIONS: Final = ("-std=c++17", "-fmad=false")
_HOST_OPTIONS: Final = ("-std=c++17", "-O2", "-ffp-contract=off", "-shared", "-fPIC")


def kernels_folder() -> Path:
    """Where compiled kernels are looked for and kept: `kernels` in samsdk's cache."""
    return cache_dir() / "kernels"


@functools.cache
def source_hash() -> str:
    """Hash of all sources and of how they are compiled, 16 hexadecimal digits."""
    digest = hashlib.sha256(" ".join(_NVCC_OPTIONS).encode())
    for path in sorted(SOURCES.iterdir()):
        content = path.read_bytes()
        digest.update(f"{path.name} {len(content)} ".encode() + content)
    return digest.hexdigest()[:16]


def cubin_name(program: str, target: str) -> str:
    """The name of a compiled program's file."""
    return f"{program}-{source_hash()}-{target}.cubin"


def compile_ahead(program: str, target: str, folder: Path | None = None) -> Path:
    """Compile a program with nvcc; neither a GPU nor its driver is needed.

    Args:
        program: a name out of `PROGRAMS`.
        target: a GPU generation, e.g. `sm89`.
        folder: where the file goes; None is `kernels_folder()`.

    Returns:
        The file, a cubin.

    Raises:
        ValueError: the program or the target is none.
        BackendError: there is no nvcc, or it refuses the target; its message is in the text.
        OutputError: the file cannot be written.
    """
    source, architecture = _source(program), _architecture(target)
    nvcc = find_nvcc()
    if nvcc is None:
        raise BackendError("found no nvcc: install the CUDA toolkit, and put its bin folder into PATH or set CUDA_HOME")
    place = _make(folder or kernels_folder()) / cubin_name(program, target)
    with atomic_path(place) as temporary:
        _run([nvcc, "-cubin", f"-arch={architecture}", *_NVCC_OPTIONS, "-o", str(temporary), str(source)])
    return place


def compile_host(program: str, folder: Path, compiler: str = "c++") -> Path:
    """Compile a program for the host: functions of the kernels' names and arguments, on host memory.

    This is how the kernels' arithmetic is checked where there is no GPU.

    Args:
        program: a name out of `PROGRAMS`.
        folder: where the shared library goes.
        compiler: a C++ compiler that takes g++'s options.

    Raises:
        ValueError: there is no such program.
        BackendError: the compiler is missing or fails; its message is in the text.
    """
    source, place = _source(program), _make(folder) / f"{program}.so"
    _run([compiler, *_HOST_OPTIONS, "-o", str(place), "-x", "c++", str(source)])
    return place


def load_cubin(program: str, target: str) -> bytes:
    """Machine code of a program: what was compiled before, else what NVRTC makes now.

    Args:
        program: a name out of `PROGRAMS`.
        target: the generation of the GPU, e.g. `sm89`.

    Raises:
        ValueError: the program or the target is none.
        MissingExtraError: it was not compiled ahead of time, and cuda-core or NVRTC is not installed.
        BackendError: NVRTC refuses the target; its message is in the text.
    """
    source, architecture = _source(program), _architecture(target)
    place = kernels_folder() / cubin_name(program, target)
    try:
        return place.read_bytes()
    except OSError:
        logger.info("compiling %s for %s with NVRTC", program, target)
    content = _compile_now(program, source, architecture)
    try:
        with atomic_write(_make(place.parent) / place.name) as file:
            file.write(content)
    except OutputError as error:
        logger.warning("compiled kernels are not kept: %s", error)
    return content


def find_nvcc() -> str | None:
    """The CUDA compiler: in PATH, else in `$CUDA_HOME/bin`, else None."""
    home = os.environ.get("CUDA_HOME")
    return shutil.which("nvcc") or (shutil.which("nvcc", path=Path(home) / "bin") if home else None)


def _compile_now(program: str, source: Path, architecture: str) -> bytes:
    try:
        core = importlib.import_module("cuda.core")
    except (ImportError, OSError) as error:
        raise MissingExtraError(_missing(program, error)) from error
    try:
        options = core.ProgramOptions(
            name=program, arch=architecture, std="c++17", fma=False, include_path=str(source.parent)
        )
        code = core.Program(source.read_text(encoding="utf-8"), "c++", options).compile("cubin").code
    except Exception as error:  # cuda-core's exceptions share no base class
        if type(error).__name__ == "DynamicLibNotFoundError":
            raise MissingExtraError(_missing(program, error)) from error
        raise BackendError(f"NVRTC cannot compile {program!r} for {architecture}: {error}") from error
    return bytes(code)


def _missing(program: str, error: Exception) -> str:
    return (
        f"compiling the kernel {program!r} needs cuda-core and NVRTC ({error}): pip install 'samsdk[tensorrt]' "
        "'cuda-core[cu13]', or compile it with nvcc: python -m samsdk_kernels.compiler"
    )


def _source(program: str) -> Path:
    if program not in PROGRAMS:
        raise ValueError(f"unknown program {program!r}, expected one of: {', '.join(PROGRAMS)}")
    return SOURCES / f"{program}.cu"


def _architecture(target: str) -> str:
    if not re.fullmatch(r"sm\d{2,3}[af]?", target):
        raise ValueError(f"expected a GPU generation such as sm89, got {target!r}")
    return f"sm_{target[2:]}"


def _make(folder: Path) -> Path:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"cannot make the folder {str(folder)!r}: {error.strerror or error}") from error
    return folder


def _run(command: list[str]) -> None:
    try:
        subprocess.run(command, check=True, capture_output=True, text=True)
    except FileNotFoundError as error:
        raise BackendError(f"found no compiler {command[0]!r}: install it, or put it into PATH") from error
    except subprocess.CalledProcessError as error:
        raise BackendError(f"{Path(command[0]).name} failed: {(error.stderr or error.stdout).strip()}") from error


def main(argv: list[str] | None = None) -> int:
    """Compile all programs for the targets that the command line names; write the files' paths to stdout."""
    parser = argparse.ArgumentParser(prog="samsdk_kernels.compiler", description="Compile the CUDA kernels with nvcc.")
    parser.add_argument("targets", nargs="*", default=TARGETS, metavar="TARGET", help="GPU generations, e.g. sm86 sm89")
    parser.add_argument("-o", "--output", type=Path, help="folder; default: where samsdk looks for them")
    args = parser.parse_args(argv)
    try:
        for target in args.targets:
            for program in PROGRAMS:
                sys.stdout.write(f"{compile_ahead(program, target, args.output)}\n")
    except ValueError as error:
        parser.error(str(error))
    except (BackendError, OutputError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
