"""The tables and pictures of trained runs, from benchmarks/results/trained-*.json and automatic-*.json."""

from collections.abc import Mapping, Sequence
from typing import Any

from results import read_results

# Measures in the order of their columns; the report's keys begin with `mean_`.
MEASURES = {
    "dice": "Dice",
    "nsd": "NSD",
    "hd95": "HD95, mm",
    "aji": "AJI",
    "object_f1": "object F1",
    "clicks": "clicks until Dice 0.85",
    "others": "Dice, other sets",
}
WORDS = {"point1": "1 point", "point3": "3 points", "point5": "5 points", "mean over classes": "mean"}
# Clicks between are counted, not shown.
HIDDEN = {f"point{count}" for count in (2, 4, 6, 7, 8, 9, 10)}


def trained_numbers() -> str:
    """Each run with what it is compared with."""
    parts = [run_table(result) for result in sorted(read_results("trained"), key=lambda one: one["run"])]
    parts += [automatic_tables(result) for result in read_results("automatic")]
    return "\n\n".join(parts)


def run_table(result: Mapping[str, Any]) -> str:
    """One run: systems down, measures across, and under it what was trained."""
    systems = result["systems"]
    shown = [name for name in MEASURES if any(f"mean_{name}" in system for system in systems.values())]
    tolerance = next(iter(systems.values()))["rules"]["nsd"]
    titles = {**MEASURES, "nsd": f"NSD at {tolerance:g} mm"} if tolerance else MEASURES
    rows = [f"| {result['run']} | " + " | ".join(titles[name] for name in shown) + " |"]
    rows.append("|---" * (len(shown) + 1) + "|")
    for label, system in systems.items():
        rows.append(f"| {label} | " + " | ".join(cell(system.get(f"mean_{name}")) for name in shown) + " |")
    if result["beside"]:
        rows.append(f"| {result['beside']} |" + " |" * len(shown))
    return "\n".join([*rows, "", _trained(result)])


def summary_table(names: Sequence[str]) -> str:
    """Dice of some runs beside the first system that each is compared with."""
    found = {result["run"]: result for result in read_results("trained")}
    rows = ["| recipe, data | beside it: Dice | Dice | trained in |", "|---|---|---|---|"]
    for name in names:
        if name not in found:
            continue
        systems = list(found[name]["systems"].items())
        (before, beside), (_, own) = systems[0], systems[-1]
        other = found[name]["beside"] or f"{before}: {cell(beside['mean_dice'])}"
        minutes = found[name]["trained"]["seconds"] / 60
        rows.append(f"| {name.replace('_', ' ')} | {other} | {cell(own['mean_dice'])} | {minutes:.0f} min |")
    note = "Recipes on images that they did not see, through `samsdk`: [docs/training.md](docs/training.md)."
    return "\n".join([*rows, "", note])


def automatic_tables(result: Mapping[str, Any]) -> str:
    """Systems without a click, and ways to pick points."""
    columns = ("mean_dice", "mean_object_f1", "mean_aji")
    rows = ["| nuclei, without a click | foreground Dice | object F1 at IoU 0.5 | AJI |", "|---|---|---|---|"]
    rows += [
        f"| {label} | " + " | ".join(f"{row[name]:.3f}" for name in columns) + " |"
        for label, row in result["systems"].items()
    ]
    rows += [
        "",
        "| points picked by | at most, positive | foreground Dice | object F1 | AJI |",
        "|---|---|---|---|---|",
    ]
    rows += [
        f"| {row['strategy']} | {row['positives']} | " + " | ".join(f"{row[name]:.3f}" for name in columns) + " |"
        for row in result["selections"]
    ]
    return "\n".join(rows)


def cell(means: Any) -> str:
    """Means by prompt or class, or one number, as a cell shows them."""
    if means is None:
        return ""
    if isinstance(means, int | float):
        return f"{means:.2f}"
    shown = {name: value for name, value in means.items() if name not in HIDDEN and value is not None}
    if len(shown) == 1:
        return f"{next(iter(shown.values())):.3f}"
    return ", ".join(f"{WORDS.get(name, name)} {value:.3f}" for name, value in shown.items())


def _trained(result: Mapping[str, Any]) -> str:
    trained, processor = result["trained"], result["environment"]["processor"]
    rules = next(iter(result["systems"].values()))["rules"]
    return (
        f"`{trained['config']['recipe']['recipe']}` on {result['taught']}; {trained['steps']} steps in "
        f"{trained['seconds'] / 60:.0f} minutes, {result['threads']} thread(s) of {processor}. Measured through "
        f"`samsdk` on `{rules['list']}`, {result['date']}."
    )
