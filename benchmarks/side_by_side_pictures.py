"""Draws docs/benchmarks-*.png: latency against Dice, latency against prompts an image, memory.

python benchmarks/side_by_side_pictures.py

From the last of benchmarks/results/side_by_side-*.json.
"""

import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt

from results import ROOT, read_results
from side_by_side_tables import prompt_counts

DOCS = ROOT / "docs"


def latency_against_dice(systems: Mapping[str, Any]) -> None:
    """One point a system and prompt kind."""
    figure, axes = plt.subplots(1, 2, figsize=(13, 5), layout="constrained", sharey=True)
    measured = {name: row for name, row in systems.items() if "accuracy" in row}
    for panel, prompt in zip(axes, ("box", "point1"), strict=True):
        for (name, row), marker in zip(measured.items(), itertools.cycle("os^vD*PX<>dph"), strict=False):
            x, y = row["ms"]["first_mask"]["p50"], row["accuracy"]["dice"][prompt]
            panel.plot(x, y, marker, markersize=8, alpha=0.8, label=name)
        panel.set(xscale="log", xlabel="first mask, ms", title={"box": "tight box", "point1": "one point"}[prompt])
        panel.set(ylabel="Dice, mean over sets", ylim=(0, 1))
        panel.grid(alpha=0.3)
    # By place, not over the points: several lie on one another.
    axes[1].legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    _save(figure, DOCS / "benchmarks-dice.png")


def latency_against_prompts(systems: Mapping[str, Any]) -> None:
    """One line a system: encoding and all prompts."""
    figure, axes = plt.subplots(figsize=(9, 6), layout="constrained")
    counts = prompt_counts(systems)
    # Peers, whose names have no device, are dashed.
    for index, (name, row) in enumerate(systems.items()):
        ms, line = row["ms"], "o-" if "," in name else "s--"
        times = [ms["encode"]["p50"] + ms[f"decode_{n}"]["p50"] for n in counts]
        axes.plot(counts, times, line, color=plt.get_cmap("tab20")(index % 20), label=name)
    axes.set(xscale="log", yscale="log", xlabel="prompts on one image", ylabel="image to all masks, ms")
    axes.set_xticks(counts, [str(count) for count in counts])
    axes.grid(alpha=0.3)
    axes.legend(fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5))
    _save(figure, DOCS / "benchmarks-prompts.png")


def memory(systems: Mapping[str, Any]) -> None:
    """One bar a system."""
    ordered = sorted(systems, key=lambda name: -systems[name]["peak_memory_mb"])
    figure, axes = plt.subplots(figsize=(8, 0.3 * len(ordered) + 1), layout="constrained")
    axes.barh(ordered, [systems[name]["peak_memory_mb"] for name in ordered])
    axes.set(xlabel="peak memory of the process, MB")
    axes.grid(alpha=0.3, axis="x")
    _save(figure, DOCS / "benchmarks-memory.png")


def _save(figure: Any, path: Path) -> None:
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main() -> None:
    """Draw all of them."""
    systems = read_results("side_by_side")[-1]["systems"]
    latency_against_dice(systems)
    latency_against_prompts(systems)
    memory(systems)


if __name__ == "__main__":
    main()
