"""The tables of docs/volumes.md."""

from collections.abc import Mapping
from typing import Any

from results import machine


def propagation_table(result: Mapping[str, Any]) -> str:
    """How well an object is followed through a volume, by bundle."""
    rows = ["| bundle | object | volumes | Dice | ceiling | share | seconds a volume |", "|---" * 7 + "|"]
    rows += [
        f"| {model} | {name} | {row['volumes']} | {row['dice']:.3f} | {row['ceiling']:.3f} | {row['share']:.0%} | "
        f"{row['seconds']:.1f} |"
        for model, measured in result["models"].items()
        for name, row in measured["means"].items()
    ]
    return "\n".join([*rows, "", f"{machine(result)}."])


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
