"""Draws what annotated slices are worth, with and without synthesis, to docs/exemplars.png.

python benchmarks/exemplars.py

From benchmarks/results/trained-cheap_lunch_hippocampus_*.json; a run's name ends in its exemplars, and in `_plain`
where nothing was synthesised.
"""

import re
from collections import defaultdict

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt

from results import ROOT, read_results

PICTURE = ROOT / "docs" / "exemplars.png"
NAME = re.compile(r"cheap_lunch_hippocampus_(\d+)(_plain)?(?:_seed\d+)?")


def main() -> None:
    """Draw the mean over classes, and over seeds where there are several."""
    found: dict[bool, dict[int, list[float]]] = {False: defaultdict(list), True: defaultdict(list)}
    for result in read_results("trained"):
        if match := NAME.fullmatch(result["run"]):
            own = list(result["systems"].values())[-1]["mean_dice"]
            found[match[2] is not None][int(match[1])].append(own["mean over classes"])
    figure, axes = plt.subplots(figsize=(6, 4), layout="constrained")
    for plain, rows in found.items():
        counts = sorted(rows)
        label = "exemplars alone" if plain else "with synthesis"
        axes.plot(counts, [sum(rows[n]) / len(rows[n]) for n in counts], "o--" if plain else "o-", label=label)
    axes.set(xscale="log", xlabel="annotated slices", ylabel="volume Dice, mean of both classes", ylim=(0, 1))
    axes.set_xticks(counts, [str(count) for count in counts])
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(PICTURE, dpi=120)
    plt.close(figure)


if __name__ == "__main__":
    main()
