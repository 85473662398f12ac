"""The tables of docs/benchmarks.md and of the README, from benchmarks/results/side_by_side-*.json."""

from collections.abc import Mapping
from typing import Any, Final

# What latencies are set against: the same weights as others deploy them.
BASELINE: Final = "lite_medsam_onnx"
PROMPTS: Final = ("box", "point1", "point3", "point5")


def main_table(result: Mapping[str, Any], *, short: bool = False) -> str:
    """Time, memory and Dice of each system; in short without lower precision, whose tables are elsewhere."""
    rows = [
        "| system | first mask ms | over plain ONNX | next prompt ms | 16 prompts ms | peak memory MB | Dice: box / 1 "
        "/ 3 / 5 points |",
        "|---" * 7 + "|",
    ]
    systems = result["systems"]
    base = systems.get(BASELINE)
    for name, row in systems.items():
        if short and row.get("tier", "exact") != "exact":
            continue
        ms = row["ms"]
        over = f"{ms['first_mask']['p50'] / base['ms']['first_mask']['p50']:.3f}" if base else ""
        # With zoom each prompt has a window of its own, which is encoded.
        prompts = " | ".join(f"{ms[key]['p50']:.1f}" for key in ("decode_1", "decode_16"))
        rows.append(
            f"| {name} | {ms['first_mask']['p50']:.1f} | {over} | {prompts} | {row['peak_memory_mb']:.0f} | "
            f"{_dice(row)} |"
        )
    return "\n".join(rows)


def detail_tables(result: Mapping[str, Any]) -> str:
    """All else that was measured, and what could not be."""
    systems = result["systems"]
    parts = [
        _stages(systems),
        _cold(systems),
        _use(systems),
        _sizes(systems),
        _about(systems),
    ]
    if result["missing"]:
        rows = [f"| {name} | {_line(reason)} |" for name, reason in result["missing"].items()]
        parts.append("\n".join(["### Not in the run", "", "| system | why |", "|---|---|", *rows]))
    return "\n\n".join(parts)


def conditions(result: Mapping[str, Any]) -> str:
    """Under what conditions it was measured."""
    peaks, before, after = result["peaks"], result["state"]["before"], result["state"]["after"]
    clocks = sorted({round(clock) for state in (before, after) for clock in state["clocks_mhz"]})
    clock = f", {' to '.join(str(one) for one in clocks[:: max(len(clocks) - 1, 1)])} MHz" if clocks else ""
    measured = next((row["accuracy"] for row in result["systems"].values() if "accuracy" in row), None)
    dice = (
        f" Dice: means over {len(measured['sets'])} sets, the first {measured['images_per_set']} held-back image(s) of "
        f"each, up to {measured['objects_per_image']} objects."
        if measured
        else ""
    )
    energy = any("encode_joules" in row for row in result["systems"].values())
    return (
        f"{'Full' if result['mode'] == 'full' else 'Short'} run, {result['threads']} thread(s) a system{clock}, load "
        f"{before['load_1_minute']} before and {after['load_1_minute']} after; the machine's float32 matrix product "
        f"{peaks['gflops']:.0f} GFLOP/s, memory bandwidth {peaks['gbytes_per_second']:.1f} GB/s; "
        f"{'energy as the processor reports it' if energy else 'the machine reports no energy'}.{dice}"
    )


def prompt_counts(systems: Mapping[str, Any]) -> list[int]:
    """How many prompts an image were timed; the same of all systems of a run."""
    timed = next(iter(systems.values()))["ms"]
    return [int(stage.removeprefix("decode_")) for stage in timed if stage.startswith("decode_")]


def _stages(systems: Mapping[str, Any]) -> str:
    counts = prompt_counts(systems)
    rows = [
        "### Stages",
        "",
        "p50 / p95 / p99 of encoding with preprocessing, p50 of prompts up to masks of the image's size.",
        "",
        "| system | encode ms | " + " | ".join(f"{n} prompts ms" for n in counts) + " | one call | turns |",
        "|---" * (4 + len(counts)) + "|",
    ]
    for name, row in systems.items():
        ms = row["ms"]
        encode = " / ".join(f"{ms['encode'][rank]:.1f}" for rank in ("p50", "p95", "p99"))
        prompts = " | ".join(f"{ms[f'decode_{n}']['p50']:.1f}" for n in counts)
        rows.append(f"| {name} | {encode} | {prompts} | {'yes' if row['batched'] else 'no'} | {row['turns']} |")
    return "\n".join(rows)


def _cold(systems: Mapping[str, Any]) -> str:
    rows = [
        "### Starts",
        "",
        "From the start of the process: libraries and model loaded, and the first mask.",
        "",
        "| system | loaded ms | first mask ms |",
        "|---|---|---|",
    ]
    rows += [
        f"| {name} | {row['cold']['loaded_ms']:.0f} | {row['cold']['first_mask_ms']:.0f} |"
        for name, row in systems.items()
    ]
    return "\n".join(rows)


def _use(systems: Mapping[str, Any]) -> str:
    rows = [
        "### In use",
        "",
        "Ten clicks on one image; image after image with one prompt; eight clients at once, each with its own images.",
        "",
        "| system | session ms | a click ms, p50 / p95 | stream: an image ms, p50 / p95 | 8 clients: masks a second | "
        "p95 ms | peak memory with these MB | of the machine's GFLOP/s | of its bandwidth |",
        "|---" * 9 + "|",
    ]
    for name, row in systems.items():
        clicks = row["session"]["click_ms"]
        shares = [f"{row[key]:.0%}" if key in row else "" for key in ("share_of_gflops", "share_of_bandwidth")]
        rows.append(
            f"| {name} | {row['session']['total_ms']:.0f} | {clicks['p50']:.1f} / {clicks['p95']:.1f} | "
            f"{_under_load(row)} | {row['all_peak_memory_mb']:.0f} | {' | '.join(shares)} |"
        )
    return "\n".join(rows)


def _under_load(row: Mapping[str, Any]) -> str:
    if "stream" not in row:
        return "over 5 s a mask | | |"
    stream, clients = row["stream"]["ms"], row["clients"]
    locked = " (one at a time)" if clients["locked"] else ""
    return (
        f"{stream['p50']:.1f} / {stream['p95']:.1f} | {clients['per_second']:.1f}{locked} | {clients['ms']['p95']:.0f}"
    )


def _sizes(systems: Mapping[str, Any]) -> str:
    measured = {name: row["sizes_ms"] for name, row in systems.items() if "sizes_ms" in row}
    sizes = list(dict.fromkeys(size for row in measured.values() for size in row))
    rows = ["### Sizes", "", "First mask, ms.", "", "| system | " + " | ".join(sizes) + " |"]
    rows.append("|---" * (len(sizes) + 1) + "|")
    for name, row in measured.items():
        rows.append(f"| {name} | " + " | ".join(f"{row[size]:.1f}" for size in sizes) + " |")
    return "\n".join(rows)


def _about(systems: Mapping[str, Any]) -> str:
    rows = ["### What they are", "", "| system | version | weights | timed | excluded |", "|---" * 5 + "|"]
    rows += [
        f"| {name} | {row['version']} | {row['weights']} | {_line(row['timed'])} | {_line(row['excluded'])} |"
        for name, row in systems.items()
    ]
    return "\n".join(rows)


def soak_table(soaked: Mapping[str, Any]) -> str:
    """One system for a long time."""
    rows = [f"### {soaked['seconds'] / 60:.0f} minutes of {soaked['system']}", ""]
    rows += ["| part | images | p50 ms | p99 ms | resident MB |", "|---" * 5 + "|"]
    for number, part in enumerate(soaked["parts"], start=1):
        ms = part["ms"]
        rows.append(f"| {number} | {part['images']} | {ms['p50']:.1f} | {ms['p99']:.1f} | {part['resident_mb']:.0f} |")
    return "\n".join(rows)


def _dice(row: Mapping[str, Any]) -> str:
    if "accuracy" not in row:
        return "random weights" if row["weights"] == "random" else "not measured"
    return " / ".join(f"{row['accuracy']['dice'][prompt]:.3f}" for prompt in PROMPTS)


def _line(text: str) -> str:
    return " ".join(text.replace("|", "/").split())
