"""Writes the numbers of benchmarks/results/ into README.md, between its two markers.

python benchmarks/report.py [--check]
"""

import argparse
import re
import sys
from collections.abc import Mapping
from typing import Any

from results import ROOT, read_results

BEGIN = "<!-- numbers:begin (python benchmarks/report.py writes this part) -->"
END = "<!-- numbers:end -->"
# The sets' licences ask for it; none of them is a part of samsdk.
CITATIONS = (
    "First 40 images of each set. us_hc18: van den Heuvel et al., HC18, CC BY 4.0; nuclei_dsb2018: Caicedo et al., "
    "2019, BBBC038, CC0; ct_kits19_mini: Heller et al., KiTS19, CC BY-NC-SA 4.0."
)


def machine(result: Mapping[str, Any]) -> str:
    """The machine and the libraries that a result was measured on."""
    environment = result["environment"]
    return (
        f"{environment['processor']}, {environment['cores']} cores, {environment['system']}, Python "
        f"{environment['python']}, ONNX Runtime {environment['onnxruntime']}, {result['date']}"
    )


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


def latency_table(result: Mapping[str, Any]) -> str:
    """Milliseconds of the systems that took turns."""
    median = result["median_ms"]
    torch, rows = (
        median["torch"],
        ["| encode + first prompt, 512x512 image | ms (median) | of PyTorch |", "|---|---|---|"],
    )
    for name, text in (
        ("torch", f"PyTorch {result['torch']}, eager, logits only"),
        ("by_hand", "the same graphs by hand in ONNX Runtime, logits only"),
        ("samsdk", "`samsdk`, image to mask"),
        ("samsdk_next_prompt", "`samsdk`, next prompt on the same image"),
    ):
        rows.append(f"| {text} | {median[name]:.0f} | {median[name] / torch:.2f} |")
    note = f"{result['repeats']} turns; `samsdk` over by hand: {result['samsdk_over_by_hand']:.3f}. {machine(result)}."
    return "\n".join([*rows, "", note])


def footprint_line(result: Mapping[str, Any]) -> str:
    """What the runtime alone costs."""
    return (
        f"The runtime alone: a virtual environment of {result['environment_mib']:.0f} MiB, `import samsdk` in "
        f"{result['import_s']:.2f} s, process start to first mask {result['first_mask_s']:.1f} s, peak memory "
        f"{result['peak_memory_mb']} MB. {machine(result)}."
    )


def numbers() -> str:
    """The generated part of the README."""
    parts = [accuracy_table(result) for result in read_results("accuracy")]
    parts += [latency_table(result) for result in read_results("latency")]
    parts += [footprint_line(result) for result in read_results("footprint")]
    return "\n\n".join([BEGIN, *parts, END])


def main() -> int:
    """Write the part, or with --check only say whether it is up to date."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="exit 1 if README.md does not show the kept results")
    check = parser.parse_args().check
    path = ROOT / "README.md"
    old = path.read_text(encoding="utf-8")
    new = re.sub(re.escape(BEGIN) + ".*" + re.escape(END), lambda _: numbers(), old, flags=re.DOTALL)
    if check:
        return int(new != old)
    path.write_text(new, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
