"""Latency, memory and accuracy of samsdk and of its peers, in one run on one machine.

    python benchmarks/side_by_side.py [--full] [--data FOLDER] [--threads 2] [--only WORD,WORD] [--bundle NAME=BUNDLE]

Each system is a process of its own in its own environment (peers: benchmarks/peers/install.py) with the same number
of threads. All take turns, so that a machine that drifts slows all of them alike. A cold start is timed while no other
system works. FOLDER holds labelled sets: images come from there at their native sizes, and Dice is measured; without
it the images are scikit-image's, and there is no Dice. The JSON goes to benchmarks/results/, the tables and pictures of
docs/benchmarks.md are made of it by benchmarks/report.py.
"""

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Final

import numpy as np

from machine import EnergyMeter, machine_state, measure_peaks
from mask_accuracy import measure_accuracy
from peers.catalogue import HERE, PEERS, EncoderCost, find_environment, load_request
from peers.process import WorkerError
from results import write_result
from runner import Asked, Runner, System
from samsdk.backends import available_devices
from samsdk.bundle import Bundle
from samsdk.errors import SamsdkError
from samsdk.hub import resolve_bundle
from samsdk.manifest import PROMPTABLE, Manifest
from workloads import (
    PROMPT_COUNTS,
    Image,
    box_prompts,
    click_session,
    reference_image,
    sized_images,
    stream_images,
)

OWN_WORKER: Final = HERE / "samsdk_worker.py"
OWN_BUNDLES: Final = {"student": "student", "lite-medsam": "lite-medsam"}


@dataclass(frozen=True)
class Plan:
    """How much is done.

    Attributes:
        turns: that are counted.
        prompts: how many of one image in one request; all of these in each turn.
        starts: cold starts of each system.
        stream: images one after the other, as many of them as a system sees in a while.
        requests: of eight clients together, likewise.
        sets: that Dice is measured on, spread over all that there are.
        accuracy: images of each of these sets, and objects of each image.
    """

    turns: int
    prompts: tuple[int, ...]
    starts: int
    stream: int
    requests: int
    sets: int
    accuracy: tuple[int, int]


# 64 prompts take half of all turns: of some peers, which decode one at a time, 10 s.
SHORT: Final = Plan(turns=3, prompts=PROMPT_COUNTS[:-1], starts=1, stream=4, requests=8, sets=4, accuracy=(1, 2))
FULL: Final = Plan(turns=8, prompts=PROMPT_COUNTS, starts=3, stream=200, requests=100, sets=100, accuracy=(1, 3))


def own_systems(bundles: Mapping[str, str]) -> tuple[list[System], dict[str, str]]:
    """samsdk's rows: each bundle, device and tier that is there; and why others are not."""
    systems: list[System] = []
    missing = {}
    for name, model in bundles.items():
        try:
            manifest = Bundle.open(resolve_bundle(model)).manifest
        except SamsdkError as error:
            missing[name] = str(error)
            continue
        cost = _encoder_cost(manifest)
        for device in available_devices():
            requests = {tier: {"model": model, "device": device, "tier": tier} for tier in manifest.tiers}
            if manifest.zoom is not None:
                requests["zoom"] = {"model": model, "device": device, "zoom": True}
            systems += [
                # With zoom, how often the encoder runs is the prompt's matter.
                System(
                    f"{name}, {device}, {kind}",
                    Path(sys.executable),
                    OWN_WORKER,
                    request,
                    None if kind == "zoom" else cost,
                )
                for kind, request in requests.items()
            ]
    return systems, missing


def _encoder_cost(manifest: Manifest) -> EncoderCost:
    """Operations, and the bytes of weights as stored, of the input and of all that the encoder answers."""
    numbers = 3 * manifest.preprocessing.input_size**2 + sum(map(prod, manifest.embedding.values()))
    return EncoderCost(manifest.flops["encoder"], manifest.files["encoder.onnx"]["size"] + 4 * numbers)


def peer_systems(folder: Path | None) -> tuple[list[System], dict[str, str]]:
    """The peers' rows, and why others are not there."""
    systems, missing = [], {}
    for peer in PEERS:
        environment = find_environment(peer.environment, folder)
        if environment.unavailable:
            missing[peer.name] = environment.unavailable
        else:
            request = load_request(peer, environment)
            systems.append(System(peer.name, environment.python, HERE / peer.worker, request, peer.encoder))
    return systems, missing


class Run:
    """All systems of one run; one that fails leaves it, with the reason.

    Args:
        systems: in the order of their turns.
        threads: of each.
        missing: why others are not there; those that leave are added.
    """

    def __init__(self, systems: list[System], threads: int, missing: dict[str, str]) -> None:
        meter = EnergyMeter()
        self.runners = [Runner(system, threads, meter) for system in systems]
        self._missing = missing
        self._begun = time.perf_counter()

    def each(self, what: str, action: Callable[[Runner], object], *, slow_too: bool = True) -> None:
        """Let all systems do something, one after the other."""
        staying = []
        for runner in self.runners:
            if not slow_too and runner.slow:
                staying.append(runner)
                continue
            print(
                f"{time.perf_counter() - self._begun:5.0f} s  {what}: {runner.system.name}", file=sys.stderr, flush=True
            )
            try:
                action(runner)
            except WorkerError as error:
                self._missing[runner.system.name] = f"{what}: {error}"
                runner.kill()
            else:
                staying.append(runner)
        self.runners = staying

    def kill(self) -> None:
        """End all processes."""
        for runner in self.runners:
            runner.kill()


def measure(run: Run, plan: Plan, data: Path | None, folder: Path, peaks: Mapping[str, float]) -> None:
    """Let all systems do everything."""
    reference = reference_image()
    size = reference.shape[:2]
    prompts = {count: box_prompts(size, count) for count in plan.prompts}
    first = keep_on_disk(folder / "reference.npy", reference)
    sized = {name: keep_on_disk(folder / f"size{index}.npy", image) for index, (name, image) in enumerate(_sized(data))}
    streamed = [
        keep_on_disk(folder / f"{index}.npy", image) for index, image in enumerate(stream_images(data, plan.stream))
    ]
    run.each("cold start", lambda runner: runner.start(first, plan.starts))
    for turn in range(plan.turns + 1):
        run.each(f"turn {turn} of {plan.turns}", lambda runner, turn=turn: runner.turn(turn, first.image, prompts))
    run.each("summing up", lambda runner: runner.finish_turns(peaks))
    run.each("click session", lambda runner: runner.session(first.image, click_session(size)))
    run.each("memory", lambda runner: runner.memory("peak_memory_mb"))
    run.each("sizes", lambda runner: runner.sizes(sized), slow_too=False)
    run.each("stream", lambda runner: runner.stream(streamed), slow_too=False)
    run.each("clients", lambda runner: runner.clients(first, plan.requests), slow_too=False)
    run.each("memory", lambda runner: runner.memory("all_peak_memory_mb"))
    if data is not None:
        run.each("accuracy", lambda runner: _add_accuracy(runner, data, plan))


def _add_accuracy(runner: Runner, data: Path, plan: Plan) -> None:
    # Of random weights there is nothing to say, nor of a model that finds what it knows, whatever the prompt is about.
    if runner.row["weights"] != "random" and runner.row.get("task", PROMPTABLE) == PROMPTABLE:
        runner.row["accuracy"] = measure_accuracy(runner.ask, data, plan.sets, *plan.accuracy)


def keep_on_disk(path: Path, image: Image) -> Asked:
    """An image where processes find it, and a box in its middle."""
    np.save(path, image)
    return Asked(path, box_prompts(image.shape[:2], 1))


def _sized(data: Path | None) -> list[tuple[str, Image]]:
    return list(sized_images(data).items())


def _bundle(text: str) -> tuple[str, str]:
    name, equals, model = text.partition("=")
    if not (name and equals and model):
        raise argparse.ArgumentTypeError(f"expected NAME=BUNDLE, got {text!r}")
    return name, model


def main() -> None:
    """Measure and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true", help="hours instead of minutes")
    parser.add_argument("--data", type=Path, help="folder of labelled sets")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="of each system; one a core")
    parser.add_argument("--only", metavar="WORD,WORD", help="systems whose name has one of these words")
    parser.add_argument("--bundle", type=_bundle, action="append", default=[], metavar="NAME=BUNDLE", help="one more")
    parser.add_argument("--peers", type=Path, help="folder of the peers' environments")
    args = parser.parse_args()
    own, missing = own_systems({**OWN_BUNDLES, **dict(args.bundle)})
    others, absent = peer_systems(args.peers)
    missing |= absent
    words = args.only.split(",") if args.only else [""]
    systems = [system for system in (*own, *others) if any(word in system.name for word in words)]
    peaks, before = measure_peaks(args.threads), machine_state()
    run = Run(systems, args.threads, missing)
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        stack.callback(run.kill)
        measure(run, FULL if args.full else SHORT, args.data, Path(folder), peaks)
    numbers = {
        "mode": "full" if args.full else "short",
        "threads": args.threads,
        "images": "the labelled sets'" if args.data else "scikit-image's",
        "peaks": peaks,
        "state": {"before": before, "after": machine_state()},
        "systems": {runner.system.name: runner.row for runner in run.runners},
        "missing": missing,
    }
    print(write_result("side_by_side", numbers))


if __name__ == "__main__":
    main()
