"""A folder of 500 files, 20 of them broken: killed twice and gone on with, then done once more on Ray.

    python benchmarks/batch_folder.py [--images 480] [--processes N]

The images are crops of the pictures that scikit-image carries, no two alike, in several formats and folders. A first
run is killed (SIGKILL) in the middle of a file, a second one as soon as a line is in its journal; a third one ends.
Then Ray does the whole folder in one go. What both left must be the same: each good file once, each broken one in the
report, every mask byte by byte. The JSON goes to benchmarks/results/.
"""

import argparse
import csv
import hashlib
import io
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import psutil
import pydicom
import skimage.data
from numpy.typing import NDArray
from pydicom.data import get_testdata_file

from results import write_result
from samsdk.batch.processes import cores

Image = NDArray[np.uint8]
SEED = 5
SIZE = (96, 128)
FOLDERS = ("", "ward a", "ward a/bed 2", "ward b")
FORMATS = (".png", ".jpg", ".tif", ".bmp")
# x0, y0, x1, y1: the same in every crop, whatever is there.
BOX = (30, 20, 98, 76)
# Shares of the files that are done when a run is killed.
FIRST_KILL, SECOND_KILL = 0.2, 0.55
PATIENCE_S = 3600.0
# Of the table, what is of one run alone.
OWN = ("seconds",)


def pictures() -> list[Image]:
    """Real pictures that scikit-image carries."""
    known = (skimage.data.immunohistochemistry, skimage.data.cell, skimage.data.retina, skimage.data.coins)
    bound = os.sched_getaffinity(0)
    found = [np.asarray(one()) for one in (*known, skimage.data.camera, skimage.data.astronaut)]
    # Reading them lets a process run on all cores again that somebody bound to some of them.
    os.sched_setaffinity(0, bound)
    return found


def crops(count: int) -> Iterator[Image]:
    """Crops of the pictures in turn, no two of the same content."""
    rng, sources, seen = np.random.default_rng(SEED), pictures(), set[str]()
    height, width = SIZE
    while len(seen) < count:
        source = sources[len(seen) % len(sources)]
        top, left = (int(rng.integers(0, side - part)) for side, part in zip(source.shape, SIZE, strict=False))
        crop = np.ascontiguousarray(source[top : top + height, left : left + width])
        digest = hashlib.sha256(crop.tobytes()).hexdigest()
        if digest not in seen and crop.std() > 2:
            seen.add(digest)
            yield crop


def encoded(image: Image, suffix: str) -> bytes:
    """An image as a file holds it."""
    return bytes(cv2.imencode(suffix, image[..., ::-1] if image.ndim == 3 else image)[1].tobytes())


def broken_files() -> dict[str, bytes]:
    """Twenty files of ten kinds that cannot be segmented, by a name that says why."""
    image = next(crops(1))
    wide = bytearray(encoded(image, ".png"))
    wide[16:24] = (60_000).to_bytes(4, "big") * 2
    whole = Path(str(get_testdata_file("CT_small.dcm", download=False))).read_bytes()
    dataset, bare = pydicom.dcmread(io.BytesIO(whole)), io.BytesIO()
    del dataset.PixelData
    dataset.save_as(bare)
    numbers = encoded(np.full(SIZE, np.nan, np.float32), ".tiff")  # type: ignore[arg-type]
    kinds: dict[str, bytes] = {
        "empty.png": b"",
        "words.png": b"these are words",
        "cut.png": encoded(image, ".png")[:2000],
        "cut.jpg": encoded(image, ".jpg")[:900],
        "cut.tif": encoded(image, ".tif")[:3000],
        "too wide.png": bytes(wide),
        "no number.tif": numbers,
        "cut.dcm": whole[: len(whole) // 2],
        "no pixels.dcm": bare.getvalue(),
        "zeros.dcm": b"\0" * 4096,
    }
    return {f"{folder}{name}": content for folder in ("", "ward b/") for name, content in kinds.items()}


def make_folder(folder: Path, images: int) -> tuple[list[str], list[str]]:
    """Write images and broken files, and a prompts file for all: names of the good ones and of the broken ones."""
    good = []
    for index, crop in enumerate(crops(images)):
        name = Path(FOLDERS[index % len(FOLDERS)], f"image {index:03d}{FORMATS[index // 4 % len(FORMATS)]}")
        (folder / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "in" / name).write_bytes(encoded(crop, name.suffix))
        good.append(name.as_posix())
    broken = broken_files()
    for one, content in broken.items():
        (folder / "in" / one).write_bytes(content)
    rows = [f'{name},"{",".join(map(str, BOX))}"' for name in (*good, *broken)]
    (folder / "prompts.csv").write_text("\n".join(["file,box", *rows]))
    return good, list(broken)


def command(folder: Path, out: str, processes: int, engine: str) -> list[str]:
    """The call of the program."""
    words = ["batch", folder / "in", "--prompts", folder / "prompts.csv", "-o", folder / out, "--processes", processes]
    words += ["--engine", engine, "--device", "cpu", "--measure", "--json"]
    return [sys.executable, "-m", "samsdk", *map(str, words)]


def lines(out: Path) -> int:
    """Whole lines of a run's journal."""
    journal = out / "journal.jsonl"
    return journal.read_bytes().count(b"\n") if journal.exists() else 0


def half_written(out: Path) -> bool:
    """Whether a file's masks are just being written."""
    return any(out.joinpath("masks", folder).glob(".*.partial") for folder in FOLDERS)


def kill_when(words: list[str], out: Path, moment: Callable[[], bool]) -> dict[str, Any]:
    """Start a run, kill it at a moment, and see that nobody of it is left."""
    begun = time.perf_counter()
    with subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        while process.poll() is None and not moment() and time.perf_counter() - begun < PATIENCE_S:
            time.sleep(0.0005)
        if process.poll() is not None:
            sys.exit(f"the run ended with {process.returncode} before it was killed")
        children = psutil.Process(process.pid).children(recursive=True)
        caught = half_written(out)
        process.send_signal(signal.SIGKILL)
    left = psutil.wait_procs(children, timeout=60)[1]
    return {
        "lines": lines(out),
        "in_the_middle_of_a_file": caught,
        "processes_left": len(left),
        "seconds": round(time.perf_counter() - begun, 1),
    }


def end(words: list[str]) -> dict[str, Any]:
    """Run to the end: what the program says."""
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode != 1 or not done.stdout:
        sys.exit(f"expected exit status 1, for the broken files, got {done.returncode}: {done.stderr[-2000:]}")
    report: dict[str, Any] = json.loads(done.stdout)
    return report


def table(out: Path) -> list[dict[str, str]]:
    """The rows of a run, without what is of this run alone."""
    with (out / "results.csv").open(newline="", encoding="utf-8") as file:
        return [{name: cell for name, cell in row.items() if name not in OWN} for row in csv.DictReader(file)]


def masks(out: Path) -> dict[str, bytes]:
    """All that was written for the files, hidden names too."""
    return {str(path.relative_to(out)): path.read_bytes() for path in (out / "masks").rglob("*") if path.is_file()}


def check(out: Path, report: dict[str, Any], good: list[str], broken: list[str]) -> dict[str, Any]:
    """What was found of good and of broken files, each of them counted."""
    journal = Counter(json.loads(line)["file"] for line in (out / "journal.jsonl").read_bytes().splitlines())
    rows = Counter((row["file"], row["state"]) for row in table(out))
    failed = Counter(one["file"] for one in report["failures"])
    return {
        "good_files_once": sum(rows[name, "done"] == journal[name] == 1 for name in good),
        "broken_files_in_the_report": sum(rows[name, "failed"] == failed[name] == 1 for name in broken),
        "rows": sum(rows.values()),
        "kinds_of_error": dict(sorted(Counter(one["error"] for one in report["failures"]).items())),
        "masks": len(masks(out)),
        "left_over": sorted(path.name for path in out.rglob(".*") if path.name != ".lock"),
    }


def measure(folder: Path, images: int, processes: int) -> dict[str, Any]:
    """Make the folder, kill, go on, do the same on Ray, compare."""
    good, broken = make_folder(folder, images)
    files, out = len(good) + len(broken), folder / "out"
    words = command(folder, "out", processes, "local")
    kills = [
        kill_when(words, out, lambda: lines(out) >= FIRST_KILL * files and half_written(out)),
        kill_when(words, out, lambda: lines(out) >= SECOND_KILL * files),
    ]
    begun = time.perf_counter()
    report = end(words)
    ended = round(time.perf_counter() - begun, 1)
    begun = time.perf_counter()
    on_ray = end(command(folder, "out-ray", processes, "ray"))
    return {
        "files": files,
        "broken": len(broken),
        "processes": processes,
        "kills": kills,
        "last_run": {"fresh": report["fresh"], "seconds": ended},
        "local": check(out, report, good, broken),
        "ray": {
            **check(folder / "out-ray", on_ray, good, broken),
            "seconds": round(time.perf_counter() - begun, 1),
        },
        "same_masks": masks(out) == masks(folder / "out-ray"),
        "same_table": table(out) == table(folder / "out-ray"),
        "same_failures": report["failures"] == on_ray["failures"],
    }


def main() -> None:
    """Measure and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=480)
    # As many as cores have one thread each, as with Ray: the last digits of scores depend on the number of threads.
    parser.add_argument("--processes", type=int, default=cores())
    parser.add_argument("--dry", action="store_true", help="print the numbers, and keep them nowhere")
    args = parser.parse_args()
    # A cluster of somebody else is not to be kept busy.
    os.environ.pop("RAY_ADDRESS", None)
    with tempfile.TemporaryDirectory() as folder:
        numbers = measure(Path(folder), args.images, args.processes)
    print(json.dumps(numbers, indent=1))
    if not args.dry:
        print(write_result("batch_folder", numbers))


if __name__ == "__main__":
    main()
