"""Writes the numbers of benchmarks/results/ into README.md and documents of docs/, between their markers.

python benchmarks/report.py [--check]
"""

import argparse
import re
import sys
from collections.abc import Callable, Mapping
from typing import Any

from bedside_tables import batch_table, confidence_table, everything_table, head_table, page_table, serve_table
from results import ROOT, machine, read_results
from side_by_side_tables import conditions, detail_tables, main_table, soak_table
from training_tables import summary_table as trained_summary
from training_tables import trained_numbers
from volume_tables import propagation_table, volume_latency_table, volume_memory_table

BEGIN = "<!-- numbers:begin (python benchmarks/report.py writes this part) -->"
END = "<!-- numbers:end -->"
# The sets' licences ask for it; none of them is a part of samsdk.
CITATIONS = (
    "First 40 images of each set. us_hc18: van den Heuvel et al., HC18, CC BY 4.0; nuclei_dsb2018: Caicedo et al., "
    "2019, BBBC038, CC0; ct_kits19_mini: Heller et al., KiTS19, CC BY-NC-SA 4.0."
)
SYSTEMS = {
    "student": "default model",
    "student_without_zoom": "default model, `zoom=False`",
    "lite_medsam": "LiteMedSAM",
}
PROMPTS = ("box", "point1", "point3")
README_RUNS = (
    "adapt_mr_hippocampus",
    "lite_medsam_nuclei",
    "samed_s_hippocampus",
    "cheap_lunch_hippocampus_16",
    "cheap_lunch_brats",
    "sac_nuclei",
    "sam_med2d_2d_sets",
)
GROUPS = {
    "validation": "other images of the sets that taught it",
    "held_back": "fetal heads and nuclei, last third",
    "never_trained": "sets that never taught it",
}


def summary_table(result: Mapping[str, Any]) -> str:
    """Mean Dice of each system on each group of sets."""
    rows = ["| Dice: tight box / 1 point / 3 points | " + " | ".join(GROUPS.values()) + " |"]
    rows.append("|---|" + "---|" * len(GROUPS))
    for system, text in SYSTEMS.items():
        means = [result["systems"][system][group]["mean_dice"] for group in GROUPS]
        rows.append(f"| {text} | " + " | ".join(" / ".join(f"{mean[p]:.3f}" for p in mean) for mean in means) + " |")
    counts = [len(result["systems"]["student"][group]["sets"]) for group in GROUPS]
    note = (
        f"Means over {counts[0]}, {counts[1]} and {counts[2]} sets; each set, what it holds and how it was prompted: "
        f"[docs/accuracy.md](docs/accuracy.md). {machine(result)}{_kept(result)}."
    )
    return "\n".join([*rows, "", note])


def _kept(result: Mapping[str, Any]) -> str:
    """Which systems an evaluation kept from a former one, and of when that is."""
    kept = [f"{SYSTEMS[name]} {row['since']['date']}" for name, row in result["systems"].items() if "since" in row]
    return f" ({', '.join(kept)})" if kept else ""


def set_tables(result: Mapping[str, Any]) -> str:
    """Dice of each system on each set."""
    parts = []
    for group, title in GROUPS.items():
        rows = [f"## {title[0].upper()}{title[1:]}", ""]
        rows.append("| set | objects | " + " | ".join(SYSTEMS.values()) + " |")
        rows.append("|---|---|" + "---|" * len(SYSTEMS))
        own = {system: result["systems"][system][group] for system in SYSTEMS}
        for name, row in own["student"]["sets"].items():
            cells = [" / ".join(f"{v:.3f}" for v in one["sets"][name]["dice"].values()) for one in own.values()]
            rows.append(f"| {name} | {row['objects']} | " + " | ".join(cells) + " |")
        means = [" / ".join(f"{v:.3f}" for v in one["mean_dice"].values()) for one in own.values()]
        parts.append("\n".join([*rows, "| **mean** | | " + " | ".join(means) + " |"]))
    rows = ["## Predicted against true IoU", "", "All prompts of all sets above, default model.", ""]
    rows += ["| predicted | true, mean | answers |", "|---|---|---|"]
    curve = result["systems"]["student"]["calibration"]
    rows += [f"| {row['predicted']:.2f} | {row['actual']:.2f} | {row['count']} |" for row in curve["curve"]]
    rows += ["", f"Expected calibration error {curve['error']:.3f}; mean absolute error of one answer "]
    rows[-1] += f"{curve['mean_absolute_error']:.3f}."
    return "\n\n".join([*parts, "\n".join(rows), f"{machine(result)}{_kept(result)}."])


def accuracy_table(result: Mapping[str, Any]) -> str:
    """Dice per set, and the distance from the torch model."""
    rows = [
        "| LiteMedSAM, tight box, through `samsdk` on the CPU | images / objects | Dice | mask IoU against PyTorch | "
        "largest logit difference |",
        "|---|---|---|---|---|",
    ]
    for row in result["sets"]:
        rows.append(
            f"| {row['set']} (object: {row['object']}) | {row['images']} / {row['objects']} | {row['dice']:.3f} | "
            f"{row['torch_mask_iou']:.6f} | {row['torch_logit_difference']:.1e} |"
        )
    return "\n".join([*rows, "", f"Measured on {machine(result)}. {CITATIONS}"])


def side_by_side_table(result: Mapping[str, Any]) -> str:
    """samsdk beside its peers, in short."""
    note = (
        "Image to mask with one box, in one run with the same number of threads; what each system is, starts, sizes, "
        f"clients and more: [docs/benchmarks.md](docs/benchmarks.md). {conditions(result)} {machine(result)}."
    )
    return "\n".join([main_table(result, short=True), "", note])


def footprint_line(result: Mapping[str, Any]) -> str:
    """What the runtime alone costs."""
    return (
        f"The runtime alone: a virtual environment of {result['environment_mib']:.0f} MiB, `import samsdk` in "
        f"{result['import_s']:.2f} s, process start to first mask {result['first_mask_s']:.2f} s, peak memory "
        f"{result['peak_memory_mb']} MB. {machine(result)}."
    )


def shapes_table(result: Mapping[str, Any]) -> str:
    """Latency, size and Dice of the shapes that were tried."""
    rows = [
        "| shape | parameters, millions | MB in half precision | ONNX Runtime: encoder + decoder, ms | OpenVINO, ms | "
    ]
    rows[0] += "box / 1 point / 3 points |"
    rows.append("|---|---|---|---|---|---|")
    for name, row in sorted(result["shapes"].items(), key=lambda pair: pair[1]["cpu_encoder_ms"]):
        times = [
            f"{row[f'{device}_encoder_ms']:.1f} + {row[f'{device}_decoder_ms']:.1f}"
            if f"{device}_encoder_ms" in row
            else "-"
            for device in ("cpu", "openvino")
        ]
        dice = " / ".join(f"{row[key]:.3f}" for key in ("dice_box", "dice_point1", "dice_point3"))
        rows.append(
            f"| {name} | {row['parameters'] / 1e6:.2f} | {row['half_mb']:.1f} | {times[0]} | {times[1]} | {dice} |"
        )
    return "\n".join([*rows, "", f"{result['steps']} steps each. {machine(result)}."])


def breadth_table(result: Mapping[str, Any]) -> str:
    """Dice on a modality's validation lists, by whether that modality taught."""
    rows = ["| asked for | taught by | box / 1 point / 3 points |", "|---|---|---|"]
    for modality, row in result["modalities"].items():
        for key, text in (("with", "all sets"), ("without", f"all but the `{modality}` sets")):
            mean = row[key]["mean"]
            count = len(row[key]["sets"])
            dice = " / ".join(f"{mean[prompt]:.3f}" for prompt in PROMPTS)
            rows.append(f"| {count} `{modality}` sets | {text} | {dice} |")
    return "\n".join([*rows, "", f"Shape `{result['shape']}`, {result['steps']} steps each. {machine(result)}."])


def rewrites_tables(result: Mapping[str, Any]) -> str:
    """Time of the rewritten graphs against the plain ones, encoder and decoder."""
    found = {(row["model"], row["part"], row["prompts"], row["device"], row["rewrites"]): row for row in result["rows"]}
    encoder = [
        "| encoder of | backend | rewrites | ms | over plain | MB | largest difference to PyTorch |",
        "|---" * 7 + "|",
    ]
    decoder = [
        "| decoder of | backend | rewrites | ms, 1 prompt | over plain | ms, 16 prompts | over plain | MB | largest "
        "logit difference to PyTorch |",
        "|---" * 9 + "|",
    ]
    for (model, part, prompts, device, rewrites), row in found.items():
        start = f"| {model} | {device} | {rewrites} | {row['ms']:.1f} | {row['over_plain']:.2f} |"
        if part == "encoder":
            encoder.append(f"{start} {row['megabytes']:.1f} | {row['difference']:.1e} |")
        elif prompts == 1:
            many = found[model, part, 16, device, rewrites]
            difference = max(row["difference"], many["difference"])
            decoder.append(
                f"{start} {many['ms']:.1f} | {many['over_plain']:.2f} | {row['megabytes']:.1f} | {difference:.1e} |"
            )
    return "\n".join([*encoder, "", *decoder, "", f"{result['repeats']} turns. {machine(result)}."])


def vit_table(result: Mapping[str, Any]) -> str:
    """Time and memory of ViT encoders, rewritten and plain."""
    rows = [
        "| encoder of | input | backend | rewrites | ms | over plain | peak memory, MB | over plain | MB | largest "
        "difference to PyTorch, relative |",
        "|---" * 10 + "|",
    ]
    rows += [
        f"| {row['model']} | {row['image_size']} | {row['device']} | {row['rewrites']} | {row['ms']:.0f} | "
        f"{row['over_plain']:.2f} | {row['peak_mb']} | {row['peak_over_plain']:.2f} | {row['megabytes']:.0f} | "
        f"{row['difference']:.1e} |"
        for row in result["rows"]
    ]
    return "\n".join([*rows, "", f"Random weights, {result['repeats']} turns. {machine(result)}."])


def rewrites_numbers() -> str:
    """The generated part of docs/rewrites.md."""
    parts = [rewrites_tables(result) for result in read_results("rewrites")]
    parts += [vit_table(result) for result in read_results("vit_export")]
    return "\n\n".join([BEGIN, *parts, END])


def precision_table(result: Mapping[str, Any]) -> str:
    """Time and change of Dice in lower precision."""
    rows = [
        f"### {result['model']}",
        "",
        "| precision, backend | products lowered | encode ms | over plain | next prompt ms | over plain | "
        "Dice change, box: mean, largest | one point: mean, largest |",
        "|---" * 8 + "|",
    ]
    for name, row in result["rows"].items():
        changes = " | ".join(
            f"{100 * row[kind]['mean']:+.2f}, {100 * row[kind]['largest']:+.2f} ({row[kind]['set']})"
            for kind in ("box", "points")
        )
        rows.append(
            f"| {name} | {row['lowered_share']:.0%} | {row['encode_ms']:.1f} | {row['encode_over_full']:.2f} | "
            f"{row['decode_ms']:.1f} | {row['decode_over_full']:.2f} | {changes} |"
        )
    sets = f"{len(result['reference'])} sets, the first {result['images_a_set']} images of each, up to 3 objects"
    return "\n".join([*rows, "", f"Changes in points of Dice; {sets}. {machine(result)}."])


def precision_numbers() -> str:
    """The generated part of docs/precision.md."""
    return "\n\n".join([BEGIN, *(precision_table(result) for result in read_results("precision")), END])


def backends_tables(result: Mapping[str, Any]) -> str:
    """What each backend and tier takes, and what a second start gains."""
    parts = []
    for model, measured in result["models"].items():
        rows = [
            f"### {model}",
            "",
            "| backend, tier | first start to mask ms | later starts ms | encode p50 / p95 / p99 ms | 1 prompt | "
            "4 prompts | 16 prompts | peak memory MB | encoder GFLOP/s |",
            "|---" * 9 + "|",
        ]
        for name, row in measured["rows"].items():
            ms, speed = row["ms"], row["encoder_gflops"]
            encode = " / ".join(f"{ms['encode'][rank]:.1f}" for rank in ("p50", "p95", "p99"))
            prompts = " | ".join(f"{ms[f'decode_{count}']['p50']:.1f}" for count in (1, 4, 16))
            rows.append(
                f"| {name} | {row['cold_start_empty_cache_ms']:.0f} | {row['cold_start_filled_cache_ms']:.0f} | "
                f"{encode} | {prompts} | {row['peak_memory_mb']:.0f} | {'' if speed is None else f'{speed:.0f}'} |"
            )
        rows += ["", f"The machine's own matrix product in the same run: {measured['peak_gflops']:.0f} GFLOP/s."]
        parts.append("\n".join(rows))
    counts = f"{result['repeats']} turns, {result['starts']} starts of each kind"
    return "\n\n".join([*parts, f"`samsdk bench`, {counts}; prompts with their masks, p50. {machine(result)}."])


def backends_numbers() -> str:
    """The generated part of docs/backends.md."""
    return "\n\n".join([BEGIN, *(backends_tables(result) for result in read_results("backends")), END])


def shapes_numbers() -> str:
    """The generated part of docs/shapes.md."""
    parts = ["\n\n".join(["## Shapes", shapes_table(result)]) for result in read_results("shapes")]
    parts += ["\n\n".join(["## What breadth buys", breadth_table(result)]) for result in read_results("breadth")]
    return "\n\n".join([BEGIN, *parts, END])


def readme_numbers() -> str:
    """The generated part of the README."""
    parts = [summary_table(result) for result in read_results("evaluation")]
    parts += [side_by_side_table(result) for result in read_results("side_by_side")]
    parts += [footprint_line(result) for result in read_results("footprint")]
    parts += [accuracy_table(result) for result in read_results("accuracy")]
    parts.append(trained_summary(README_RUNS))
    return "\n\n".join([BEGIN, *parts, END])


def volumes_numbers() -> str:
    """The generated part of docs/volumes.md."""
    parts = [propagation_table(result) for result in read_results("propagation")]
    for result in read_results("volume_latency"):
        parts += ["## Memory and latency of models for volumes", volume_latency_table(result)]
    for result in read_results("volume_memory"):
        parts += ["## Memory of a large volume", volume_memory_table(result)]
    return "\n\n".join([BEGIN, *parts, END])


def benchmarks_numbers() -> str:
    """The generated part of docs/benchmarks.md."""
    parts = []
    for result in read_results("side_by_side"):
        parts += [f"## {machine(result)}", conditions(result), main_table(result), detail_tables(result)]
    parts += [f"{soak_table(result)}\n\n{machine(result)}." for result in read_results("soak")]
    return "\n\n".join([BEGIN, *parts, END])


def tables(table: Callable[[Mapping[str, Any]], str], benchmark: str) -> str:
    """The generated part of a document of one benchmark: a table a device."""
    return "\n\n".join([BEGIN, *map(table, read_results(benchmark)), END])


def serve_numbers() -> str:
    """The generated part of docs/serve.md."""
    parts = [*map(serve_table, read_results("serve")), *map(page_table, read_results("page_clicks"))]
    return "\n\n".join([BEGIN, *parts, END])


def training_numbers() -> str:
    """The generated part of docs/training.md."""
    return "\n\n".join([BEGIN, trained_numbers(), END])


def accuracy_numbers() -> str:
    """The generated part of docs/accuracy.md."""
    return "\n\n".join([BEGIN, *(set_tables(result) for result in read_results("evaluation")), END])


def measuring_numbers() -> str:
    """The generated part of docs/measuring.md."""
    heads = [head_table(result) for result in read_results("head_circumference")]
    confidence = [confidence_table(result) for result in read_results("confidence")]
    title = "## Confidence of the default model on sets that never taught it"
    return "\n\n".join([BEGIN, *heads, title, *confidence, END])


def main() -> int:
    """Write the parts, or with --check only say whether they are up to date."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="exit 1 if the files do not show the kept results")
    check, stale = parser.parse_args().check, False
    for path, numbers in (
        (ROOT / "README.md", readme_numbers()),
        (ROOT / "docs" / "accuracy.md", accuracy_numbers()),
        (ROOT / "docs" / "shapes.md", shapes_numbers()),
        (ROOT / "docs" / "rewrites.md", rewrites_numbers()),
        (ROOT / "docs" / "precision.md", precision_numbers()),
        (ROOT / "docs" / "backends.md", backends_numbers()),
        (ROOT / "docs" / "training.md", training_numbers()),
        (ROOT / "docs" / "volumes.md", volumes_numbers()),
        (ROOT / "docs" / "benchmarks.md", benchmarks_numbers()),
        (ROOT / "docs" / "everything.md", tables(everything_table, "everything")),
        (ROOT / "docs" / "batch.md", tables(batch_table, "batch_folder")),
        (ROOT / "docs" / "serve.md", serve_numbers()),
        (ROOT / "docs" / "measuring.md", measuring_numbers()),
    ):
        old = path.read_text(encoding="utf-8")
        new = re.sub(re.escape(BEGIN) + ".*" + re.escape(END), lambda _, text=numbers: text, old, flags=re.DOTALL)
        stale = stale or new != old
        if not check:
            path.write_text(new, encoding="utf-8")
    return int(check and stale)


if __name__ == "__main__":
    sys.exit(main())
