"""The tables of docs/volumes.md."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from results import machine


def propagation_table(result: Mapping[str, Any]) -> str:
    """How well an object is followed through a volume, by bundle; apart what the rules were tuned on."""
    rows = ["| bundle | object | rules tuned on it | volumes | Dice | ceiling | share | seconds a volume |"]
    rows.append("|---" * 8 + "|")
    rows += [
        f"| {model} | {row['set']} {row['object']} | {'yes' if row['tuned_on'] else 'no'} | {row['volumes']} | "
        f"{row['dice']:.3f} | {row['ceiling']:.3f} | {row['share']:.0%} | {row['seconds']:.1f} |"
        for model, measured in result["models"].items()
        for row in summarise(measured["objects"])
    ]
    return "\n".join([*rows, "", f"{machine(result)}."])


def summarise(objects: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Means of benchmarks/propagation.py by set, object, and whether the rules were tuned on the volume."""
    by = ("set", "object", "tuned_on")
    groups: dict[tuple[Any, ...], list[Mapping[str, Any]]] = {}
    for one in objects:
        groups.setdefault(tuple(one[name] for name in by), []).append(one)
    return [
        {
            **dict(zip(by, group, strict=True)),
            "volumes": len(members),
            **{
                name: float(np.mean([one[name] for one in members])) for name in ("dice", "ceiling", "share", "seconds")
            },
        }
        for group, members in groups.items()
    ]


def volume_latency_table(result: Mapping[str, Any]) -> str:
    """What bundles for volumes take."""
    rows = [
        "| bundle | backend | crop | GFLOP a crop | bundle MB | crop ms | windows | volume ms, p50 / p95 | memory MB |",
        "|---" * 9 + "|",
    ]
    for row in result["rows"]:
        crop, volume = " x ".join(map(str, row["crop"])), row["volume_ms"]
        rows.append(
            f"| {row['bundle']} | {row['device']} | {crop} | {row['gflops_a_crop']:.1f} | {row['megabytes']:.1f} | "
            f"{row['crop_ms']:.1f} | {row['windows']:.1f} | {volume['p50']:.0f} / {volume['p95']:.0f} | "
            f"{row['peak_memory_mb']:.0f} |"
        )
    note = (
        f"{result['volumes']} volumes of {result['set']}, {result['repeats']} turns, {result['threads']} thread(s); "
        f"windows in the mean; with preprocessing and labels back on the volume's grid. {machine(result)}."
    )
    return "\n".join([*rows, "", note])


def volume_memory_table(result: Mapping[str, Any]) -> str:
    """What processes take that segment a large volume."""
    rows = [
        "| way | bundle | backend | windows of | classes | said before, MB | measured, MB | limit, MB |",
        "|---" * 8 + "|",
    ]
    for row in result["rows"]:
        way = f"followed, {row['slices']} slices" if row["way"] == "followed" else "window by window"
        crop = " x ".join(map(str, row["crop"])) if row["crop"] else ""
        over = " (passed)" if row["peak_memory_mb"] > row["limit_mb"] else ""
        rows.append(
            f"| {way} | {row['bundle']} | {row['provider']} | {crop} | {row['classes']} | {row['planned_mb']:.0f} | "
            f"{row['peak_memory_mb']:.0f}{over} | {row['limit_mb']:.0f} |"
        )
    shape = " x ".join(map(str, reversed(result["shape"])))
    note = (
        f"`samsdk segment` on a synthetic CT of {shape} voxels of int16 from a .nii.gz file to the written labels, a "
        f"process each, all of it counted; swin_unetr with random weights, on the volume's own grid. {machine(result)}."
    )
    return "\n".join([*rows, "", note])
