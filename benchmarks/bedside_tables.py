"""The tables of docs/everything.md, docs/measuring.md and docs/serve.md."""

from collections.abc import Mapping
from typing import Any

from results import machine

# Of the JSON's prompts, as a reader knows them.
PROMPTS = {
    "box": "tight box",
    "drawn_box": "box drawn by hand (each side off by 3 % on average)",
    "point3": "three points",
}
# When page_clicks.py clicks again.
PAGE_WAYS = {"at_once": "as soon as the mask is there", "measured": "when it is measured"}


def everything_table(result: Mapping[str, Any]) -> str:
    """Counting without a click, beside what was trained for it."""
    found, beside = result["default model"], result["beside, mean_object_f1"]
    low, high = found["interval"]["low"], found["interval"]["high"]
    rows = [
        "| nuclei without a click | object F1@0.5 | count: mean error of an image | as a share |",
        "|---|---|---|---|",
        f"| default model, everything mode | {found['mean_object_f1']:.3f} ({low:.3f} to {high:.3f}) | "
        f"{found['count_mean_absolute_error']:.1f} nuclei | {found['count_mean_absolute_relative_error']:.0%}, median "
        f"{found['count_median_absolute_relative_error']:.0%} |",
        f"| recipe `sac`, trained for nuclei alone ([training.md](training.md)) | {beside['bundle']:.3f} | | |",
        f"| default model, given the points of `sac` | {beside['default model, the same points']:.3f} | | |",
    ]
    note = (
        f"{found['images']} images, {found['objects']} nuclei, {found['counted']} counted. F1 is the mean over images "
        "with the bootstrap interval over images; over all nuclei together it is "
        f"{found['pooled_object_f1']:.3f}. "
        f"{found['median_ms'] / 1e3:.2f} s and {found['mean_points']:.0f} points an image. {machine(result)}."
    )
    return "\n".join([*rows, "", note])


def serve_table(result: Mapping[str, Any]) -> str:
    """The service under load."""
    ms, memory = result["milliseconds"], result["memory_mb"]
    quarters = " / ".join(f"{value:.0f}" for name, value in memory.items() if name.endswith("_quarter_max"))
    rows = [
        "| clients | sessions | prompts | wrong masks | failed | median / p95 / p99 ms | prompts a second | "
        "memory MB: before the first image / most in each quarter |",
        "|---" * 8 + "|",
        f"| {result['clients']} | {result['sessions']} | {result['prompts']} | {result['wrong_masks']} | "
        f"{result['failed']} | {ms['median']:.0f} / {ms['p95']:.0f} / {ms['p99']:.0f} | "
        f"{result['prompts_per_second']:.0f} | {memory['before']:.0f} / {quarters} |",
    ]
    held = f", and held {memory['held_by_sessions']:.0f} MB in the end" if "held_by_sessions" in memory else ""
    note = f"Default model on real images; sessions may hold {memory['limit_of_sessions']} MB{held}. {machine(result)}."
    return "\n".join([*rows, "", note])


def page_table(result: Mapping[str, Any]) -> str:
    """From the click to the mask on the screen."""
    rows = [
        "| the next click comes | click | clicks | click to mask, ms: median / p95 | of it the model |",
        "|---" * 5 + "|",
    ]
    for way, text in PAGE_WAYS.items():
        for kind, name in (("first", "on a new object"), ("correction", "that corrects"), ("all", "both")):
            row = result["ways"][way][kind]
            total, model = (
                f"{row[part]['median']:.0f} / {row[part]['p95']:.0f}" for part in ("click_to_mask", "model")
            )
            rows.append(f"| {text} | {name} | {row['clicks']} | {total} | {model} |")
    note = (
        f"{result['browser']}, headless, on the machine that runs the service too; default model; pictures of "
        f"scikit-image: {', '.join(result['images'])}. {machine(result)}."
    )
    return "\n".join([*rows, "", note])


def confidence_table(result: Mapping[str, Any]) -> str:
    """What the default model's score is worth, and what a table makes of it on sets that it was not fitted to."""
    parts = []
    for kind, row in result["kinds"].items():
        parts.append("\n".join([f"| score after {kind} | true IoU, mean | answers |", "|---" * 3 + "|", *_curve(row)]))
    sets = result["sets"]
    rows = ["| set that was left out | objects | " + " | ".join(f"{kind}: before, after" for kind in result["kinds"])]
    rows = [f"{rows[0]} |", "|---" * (2 + len(result["kinds"])) + "|"]
    errors = [row["held_out_error"] for row in result["kinds"].values()]
    for name, one in sets.items():
        cells = [f"{error['before']['sets'][name]:.3f}, {error['after']['sets'][name]:.3f}" for error in errors]
        rows.append(f"| {name} | {one['objects']} | " + " | ".join(cells) + " |")
    means = [f"{error['before']['mean']:.3f}, {error['after']['mean']:.3f}" for error in errors]
    rows.append(f"| **mean** | {sum(one['objects'] for one in sets.values())} | " + " | ".join(means) + " |")
    overall = ", ".join(f"{kind} {row['error']:.3f}" for kind, row in result["kinds"].items())
    note = (
        "Expected calibration error of the score as it is, and of a table that was fitted to the other sets. Over all "
        f"answers together, the score as it is: {overall}. Tight boxes; one and three points. None of these images is "
        "in [accuracy.md](accuracy.md). ct_* and mr_hippocampus: Medical Segmentation Decathlon, Antonelli et al. "
        f"2022, CC BY-SA 4.0; mr_brain_tumour_brisc: Fateh et al. 2025, CC BY 4.0. {machine(result)}."
    )
    return "\n\n".join([*parts, "\n".join(rows), note])


def _curve(row: Mapping[str, Any]) -> list[str]:
    return [f"| {one['predicted']:.2f} | {one['actual']:.2f} | {one['count']} |" for one in row["curve"]]


def batch_table(result: Mapping[str, Any]) -> str:
    """A folder with broken files, killed twice, and the same folder on Ray."""
    rows = [
        "| engine | runs | good files done once | broken files in the report | left half-written |",
        "|---" * 5 + "|",
    ]
    good = result["files"] - result["broken"]
    runs = {"local": f"killed twice, {len(result['kills']) + 1} runs", "ray": "one run"}
    for engine, text in runs.items():
        row = result[engine]
        rows.append(
            f"| {engine} | {text} | {row['good_files_once']} of {good} | {row['broken_files_in_the_report']} of "
            f"{result['broken']} | {len(row['left_over'])} |"
        )
    same = {name: "the same" if result[f"same_{name}"] else "NOT the same" for name in ("masks", "table", "failures")}
    kills = " and ".join(f"after {kill['lines']}" for kill in result["kills"])
    note = (
        f"{result['files']} files, {result['broken']} of them broken in ten ways; SIGKILL {kills} files; the last run "
        f"did the other {result['last_run']['fresh']}. Of both engines the masks are {same['masks']}, byte by byte, "
        f"the rows of the table, seconds apart, {same['table']}, and the failures {same['failures']}. "
        f"{machine(result)}."
    )
    return "\n".join([*rows, "", note])


def head_table(result: Mapping[str, Any]) -> str:
    """Head circumference from a prompt."""
    rows = ["| prompt | as `segment` answers | way chosen on the heads that taught | largest error |", "|---" * 4 + "|"]
    for name, row in result["prompts"].items():
        plain = row["ways"]["moments, zoom=True"]["held_back"]["mean_absolute"]
        rows.append(
            f"| {PROMPTS.get(name, name)} | {plain:.2f} mm | {row['held_back']['mean_absolute']:.2f} mm "
            f"({row['chosen']}) | {row['held_back']['largest']:.1f} mm |"
        )
    reference = result["reference"]["mean_absolute"]
    note = (
        f"Mean absolute error of the circumference on {result['heads']['held_back']} held-back heads of us_hc18 (mean "
        f"{result['mean_circumference_mm']:.0f} mm). The reference masks' own ellipses are {reference:.2f} mm off the "
        f"set's table, because they hold the drawn line. {machine(result)}."
    )
    return "\n".join([*rows, "", note])
