"""Many at once: sessions of real images, prompts from all of them in turn, every mask compared, memory watched.

    python benchmarks/serve_load.py [--sessions 16] [--prompts 6000] [--clients 16]

A service of the default model runs in a process of its own, on an address of this machine alone. Each answer has to be
the mask that `Predictor.segment` gives in one thread. What is timed is a request, from sending it to its whole answer,
run lengths included. Sessions keep their last answers, so memory grows until each of them has all that it may keep,
with 16 sessions after 800 prompts. What it is from then on shows whether it is bounded. The JSON goes to
benchmarks/results/.
"""

import argparse
import itertools
import random
import re
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from typing import Any

import cv2
import httpx2
import numpy as np
import psutil
import skimage.data
from numpy.typing import NDArray

import samsdk
from results import write_result

IMAGES = ("immunohistochemistry", "cell", "human_mitosis", "retina", "skin", "coins")
SEED = 7
# More would only repeat itself; the machine is not to be kept busy without end.
MOST_SESSIONS, MOST_PROMPTS = 64, 20_000
MEMORY_MB = 400
QUARTERS = ("first", "second", "third", "last")


@dataclass(frozen=True, eq=False)
class Job:
    """One prompt, and the mask that it must give."""

    image: str
    body: dict[str, Any]
    expected: dict[str, Any]


@dataclass
class Outcome:
    """What came of all prompts."""

    milliseconds: list[float] = field(default_factory=list)
    wrong: int = 0
    failed: int = 0


def load_images() -> dict[str, NDArray[Any]]:
    """Real images that scikit-image carries; those that it would have to download are left out."""
    found = {}
    for name in IMAGES:
        try:
            image = np.asarray(getattr(skimage.data, name)())
        except Exception as error:  # whatever a missing file or a missing network raises
            print(f"without {name}: {type(error).__name__}")
            continue
        found[name] = np.ascontiguousarray(image[:1024, :1024])
    return found


def make_jobs(predictor: samsdk.Predictor, images: dict[str, NDArray[Any]], different: int) -> list[Job]:
    """Different prompts on all images: points, boxes and both, zoomed as the model recommends and not."""
    rng = random.Random(SEED)
    jobs = []
    for name, kind in itertools.islice(itertools.cycle(itertools.product(images, ("point", "box", "both"))), different):
        image = images[name]
        height, width = image.shape[:2]
        side = rng.randrange(24, 160)
        left, top = rng.randrange(width - side), rng.randrange(height - side)
        body: dict[str, Any] = {"zoom": rng.choice((None, None, False))}
        if kind != "point":
            body["box"] = [left, top, left + side, top + side]
        if kind != "box":
            body["points"] = [[left + side / 2, top + side / 2]]
        jobs.append(Job(name, body, predictor.segment(image, **body).rle()))
        predictor.forget()
    return jobs


def start(device: str) -> tuple[subprocess.Popen[str], str]:
    """A service in a process of its own, and its address."""
    command = [sys.executable, "-m", "samsdk", "serve", "--port", "0", "--device", device]
    limits = ["--max-rate", "100000", "--max-memory-mb", str(MEMORY_MB)]
    process = subprocess.Popen([*command, *limits], stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    line = process.stderr.readline()
    found = re.search(r"(http://127\.0\.0\.1:\d+)/", line)
    if not found:
        process.kill()
        raise RuntimeError(f"the service did not start: {line}")
    threading.Thread(target=process.stderr.read, daemon=True).start()
    return process, found[1]


def wait_ready(url: str) -> None:
    """Until the service takes requests."""
    end = time.monotonic() + 120
    while time.monotonic() < end:
        try:
            if httpx2.get(f"{url}/ready").status_code == 200:
                return
        except httpx2.TransportError:
            pass
        time.sleep(0.1)
    raise RuntimeError("the service was not ready within two minutes")


def open_sessions(url: str, images: dict[str, NDArray[Any]], count: int) -> list[tuple[str, str]]:
    """(name of the image, path of its session), several of each image."""
    sessions = []
    for name in itertools.islice(itertools.cycle(images), count):
        image = images[name]
        _, data = cv2.imencode(".png", image[..., 2::-1] if image.ndim == 3 else image)
        headers = {"content-type": "application/octet-stream"}
        reply = httpx2.post(f"{url}/sessions", content=data.tobytes(), headers=headers, timeout=120)
        reply.raise_for_status()
        sessions.append((name, f"{url}/sessions/{reply.json()['id']}"))
    return sessions


def run_clients(work: list[tuple[str, Job]], clients: int) -> Outcome:
    """Send all prompts, so many clients at a time, each the next when its last was answered."""
    outcome, lock, left = Outcome(), threading.Lock(), iter(work)

    def client() -> None:
        with httpx2.Client(timeout=120) as http:
            while True:
                with lock:
                    session, job = next(left, (None, None))
                if session is None or job is None:
                    return
                start = time.perf_counter()
                reply = http.post(f"{session}/prompts", json={**job.body, "object": 1, "include": ["rle"]})
                took = (time.perf_counter() - start) * 1e3
                with lock:
                    outcome.milliseconds.append(took)
                    outcome.failed += reply.status_code != 200
                    outcome.wrong += reply.status_code == 200 and reply.json()["rle"] != job.expected

    threads = [threading.Thread(target=client) for _ in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return outcome


def held_megabytes(url: str) -> float:
    """Megabytes that the service says its sessions hold."""
    found = re.search(r"^samsdk_session_bytes (\S+)$", httpx2.get(f"{url}/metrics").text, re.MULTILINE)
    assert found is not None
    return float(found[1]) / 1e6


def watch_memory(process: psutil.Process, stop: threading.Event) -> list[float]:
    """Resident megabytes of the service while it works; filled by a thread."""
    seen: list[float] = []

    def watch() -> None:
        while not stop.wait(0.2):
            seen.append(process.memory_info().rss / 1e6)

    threading.Thread(target=watch, daemon=True).start()
    return seen


def measure(sessions: int, prompts: int, clients: int, device: str = "cpu") -> dict[str, Any]:
    """Run the whole thing.

    Args:
        sessions: open at once.
        prompts: sent in all.
        clients: that ask at once.
        device: of the service.

    Returns:
        Numbers: how many masks were wrong, latencies, throughput, memory.
    """
    images = load_images()
    predictor = samsdk.load(device=device)
    jobs = make_jobs(predictor, images, min(prompts, 120))
    process, url = start(device)
    try:
        wait_ready(url)
        idle = psutil.Process(process.pid).memory_info().rss / 1e6
        opened = open_sessions(url, images, sessions)
        by_image = {name: [path for other, path in opened if other == name] for name in images}
        usable = [job for job in jobs if by_image[job.image]]
        turns = {name: itertools.cycle(paths) for name, paths in by_image.items() if paths}
        order = list(itertools.islice(itertools.cycle(usable), prompts))
        random.Random(SEED).shuffle(order)
        work = [(next(turns[job.image]), job) for job in order]
        stop = threading.Event()
        memory = watch_memory(psutil.Process(process.pid), stop)
        start_time = time.perf_counter()
        outcome = run_clients(work, clients)
        seconds = time.perf_counter() - start_time
        stop.set()
        held = held_megabytes(url)
    finally:
        process.terminate()
        process.wait(60)
    quarters = np.array_split(np.array(memory or [idle]), len(QUARTERS))
    p50, p95, p99 = np.percentile(outcome.milliseconds, [50, 95, 99])
    return {
        "sessions": len(opened),
        "clients": clients,
        "prompts": len(outcome.milliseconds),
        "wrong_masks": outcome.wrong,
        "failed": outcome.failed,
        "milliseconds": {"median": round(float(p50), 1), "p95": round(float(p95), 1), "p99": round(float(p99), 1)},
        "prompts_per_second": round(prompts / seconds, 2),
        "memory_mb": {
            "before": round(idle, 1),
            **{
                f"{name}_quarter_max": round(float(part.max(initial=0.0)), 1)
                for name, part in zip(QUARTERS, quarters, strict=True)
            },
            "peak": round(max(memory, default=idle), 1),
            "held_by_sessions": round(held, 1),
            "limit_of_sessions": MEMORY_MB,
        },
        "images": list(images),
    }


def main() -> None:
    """Measure and keep the numbers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sessions", type=int, default=16)
    parser.add_argument("--prompts", type=int, default=6000)
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    if not (0 < args.sessions <= MOST_SESSIONS and 0 < args.prompts <= MOST_PROMPTS and 0 < args.clients <= 64):
        parser.error(f"expected at most {MOST_SESSIONS} sessions, {MOST_PROMPTS} prompts and 64 clients")
    numbers = measure(args.sessions, args.prompts, args.clients, args.device)
    print(write_result("serve", numbers))
    print(numbers)
    sys.exit(bool(numbers["wrong_masks"] or numbers["failed"]))


if __name__ == "__main__":
    main()
