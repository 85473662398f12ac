"""The tables and pictures of trained runs, from benchmarks/results/trained-*.json and automatic-*.json."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from results import processor_name, read_results
from samsdk.manifest import PROMPTABLE

# Measures in the order of their columns; the report's keys begin with `mean_`.
MEASURES = {
    "dice": "Dice",
    "nsd": "NSD",
    "hd95": "HD95, mm",
    "aji": "AJI",
    "object_f1": "object F1",
    "clicks": "clicks until Dice 0.85",
    "others": "Dice, other sets (3 images of each)",
}
WORDS = {"point1": "1 point", "point3": "3 points", "point5": "5 points", "mean over classes": "mean"}
SEED = re.compile(r"_seed\d+$")
# A run without synthesis, beside one of the same name with it.
PLAIN = "_plain"
# Of models that name the classes of volumes, by the set that they are measured on; where a result names none itself.
PUBLISHED = {"mr_hippocampus": "nnU-Net, published (Isensee et al. 2021): anterior 0.90, posterior 0.89"}
# Clicks between are counted, not shown.
HIDDEN = {f"point{count}" for count in (2, 4, 6, 7, 8, 9, 10)}


def trained_numbers() -> str:
    """Each run with what it is compared with."""
    found = seeded_runs()
    parts = [run_table(name, results, beside(name, found)) for name, results in found.items()]
    parts += [automatic_tables(result) for result in read_results("automatic")]
    return "\n\n".join(parts)


def seeded_runs() -> dict[str, list[dict[str, Any]]]:
    """Results by the name of their run; those of one name differ in their seed (`NAME`, `NAME_seed1`, ...)."""
    found: dict[str, list[dict[str, Any]]] = {}
    for result in sorted(read_results("trained"), key=lambda one: one["run"]):
        found.setdefault(SEED.sub("", result["run"]), []).append(result)
    return dict(sorted(found.items()))


def beside(name: str, found: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, list[Mapping[str, Any]]]:
    """What was measured elsewhere and stands beside a run: by its label the means of each seed.

    That is the same recipe without synthesis, and of a bundle that prompts itself what others do with its points or
    with the whole image as a box.
    """
    rows: dict[str, list[Mapping[str, Any]]] = {}
    if name + PLAIN in found:
        plain, own = ([_own(one) for one in found[one]] for one in (name + PLAIN, name))
        better = ", which is better" if _mean_dice(plain) > _mean_dice(own) else ""
        rows[f"without synthesis{better}"] = plain
    bundles = {_own(one)["bundle"] for one in found[name]}
    for result in read_results("automatic"):
        if result["identity"] in bundles:
            rows |= {label: [_by_class(row)] for label, row in result["systems"].items() if label != "bundle"}
    return rows


def _by_class(row: Mapping[str, Any]) -> dict[str, Any]:
    """Means as `samsdk evaluate` has them, of a result that has the foreground alone."""
    return {key: {"foreground": value} for key, value in row.items() if key.startswith("mean_")}


def published(result: Mapping[str, Any]) -> str | None:
    """Numbers of others on the set that a run was measured on, as text; None where none are known."""
    own = _own(result)
    if result["beside"] or own["task"] == PROMPTABLE:
        return result["beside"] and str(result["beside"])
    return next((PUBLISHED[name] for name in own["sets"] if name in PUBLISHED), None)


def run_table(
    name: str, results: Sequence[Mapping[str, Any]], elsewhere: Mapping[str, Sequence[Mapping[str, Any]]]
) -> str:
    """One run of one or more seeds: systems down, measures across, and under it what was trained.

    Args:
        name: of the run.
        results: of its seeds.
        elsewhere: as `beside` returned it.
    """
    first = results[0]
    systems = first["systems"]
    shown = [name for name in MEASURES if any(f"mean_{name}" in system for system in systems.values())]
    tolerance = next(iter(systems.values()))["rules"]["nsd"]
    titles = {**MEASURES, "nsd": f"NSD at {tolerance:g} mm"} if tolerance else MEASURES
    rows = [f"| {name} | " + " | ".join(titles[name] for name in shown) + " |"]
    rows.append("|---" * (len(shown) + 1) + "|")
    # What a run is compared with is measured once.
    measured = {label: [one["systems"][label] for one in results if label in one["systems"]] for label in systems}
    for label, seeds in {**measured, **elsewhere}.items():
        cells = [cell([system.get(f"mean_{measure}") for system in seeds]) for measure in shown]
        rows.append(f"| {label} | " + " | ".join(cells) + " |")
    if text := published(first):
        rows.append(f"| {text} |" + " |" * len(shown))
    return "\n".join([*rows, "", _trained(results)])


def summary_table(names: Sequence[str]) -> str:
    """Dice of some runs beside what each is compared with; a run is never beside itself."""
    found = seeded_runs()
    rows = ["| recipe, data | beside it: Dice | Dice | trained in |", "|---|---|---|---|"]
    for name in names:
        if name not in found:
            continue
        first = found[name][0]
        *compared, _ = first["systems"].items()
        measured = {**{label: [system] for label, system in compared}, **beside(name, found)}
        others = [f"{label}: {cell([one['mean_dice'] for one in seeds])}" for label, seeds in measured.items()]
        others += filter(None, [published(first)])
        own = [_own(one)["mean_dice"] for one in found[name]]
        rows.append(f"| {name.replace('_', ' ')} | {'; '.join(others)} | {cell(own)} | {_minutes(found[name])} min |")
    note = (
        "Recipes on images that they did not see, through `samsdk`; of several seeds the mean and the range; of how "
        "many images and objects: [docs/training.md](docs/training.md)."
    )
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


def cell(seeds: Sequence[Any]) -> str:
    """One measure of a system as a cell shows it: of each seed means by prompt or class, or one number, or None."""
    known = [one for one in seeds if one is not None]
    if not known:
        return ""
    if isinstance(known[0], int | float):
        return _number(known, 2)
    shown = {name: [one[name] for one in known] for name in known[0] if name not in HIDDEN}
    shown = {name: values for name, values in shown.items() if None not in values}
    if len(shown) == 1:
        return _number(next(iter(shown.values())), 3)
    return ", ".join(f"{WORDS.get(name, name)} {_number(values, 3)}" for name, values in shown.items())


def _number(values: Sequence[float], digits: int) -> str:
    mean = sum(values) / len(values)
    low, high = f"{min(values):.{digits}f}", f"{max(values):.{digits}f}"
    return f"{mean:.{digits}f}" if low == high else f"{mean:.{digits}f} ({low} to {high})"


def _own(result: Mapping[str, Any]) -> Mapping[str, Any]:
    """What the trained model scored; what it is compared with stands before it."""
    return list(result["systems"].values())[-1]


def _mean_dice(systems: Sequence[Mapping[str, Any]]) -> float:
    """The mean over seeds of the Dice, over classes where there are several."""
    return sum(list(system["mean_dice"].values())[-1] for system in systems) / len(systems)


def _minutes(results: Sequence[Mapping[str, Any]]) -> str:
    low, high = (f"{pick(one['trained']['seconds'] for one in results) / 60:.0f}" for pick in (min, max))
    return low if low == high else f"{low} to {high}"


def _trained(results: Sequence[Mapping[str, Any]]) -> str:
    first, dates = results[0], sorted({one["date"] for one in results})
    trained, processor = first["trained"], processor_name(first["environment"])
    rules = next(iter(first["systems"].values()))["rules"]
    seeds = f", {len(results)} seeds: mean and range" if len(results) > 1 else ""
    return (
        f"`{trained['config']['recipe']['recipe']}` on {first['taught']}{seeds}; {trained['steps']} steps in "
        f"{_minutes(results)} minutes, {first['threads']} thread(s) of {processor}. Measured through "
        f"`samsdk` on `{rules['list']}` ({_counts(_own(first)['sets'])}), "
        f"{' to '.join(dates[:: max(len(dates) - 1, 1)])}."
    )


def _counts(sets: Mapping[str, Mapping[str, Any]]) -> str:
    """How many sets, images and objects, or cases, the means were made of."""
    counted = "cases" if "cases" in next(iter(sets.values())) else "objects"
    images, things = (sum(row[one] for row in sets.values()) for one in ("images", counted))
    some = f"{len(sets)} sets, " if len(sets) > 1 else ""
    return f"{some}{images} images, {things} {counted[:-1] if things == 1 else counted}"
