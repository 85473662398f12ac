"""What rewritten attention is worth in the graphs of SAM's ViT: milliseconds, peak memory, distance to torch.

    python benchmarks/vit_export.py [--sizes 256,512,1024] [--repeats 7]

The encoders of SAM ViT-B at several sizes of input and of SAM-Med2D at 256, with random weights, as exported plainly
and with rewrites, on the CPU backends, for one image. Graphs of one backend take turns in one
process; peak memory is that of a fresh process that loads one graph and encodes one image. The JSON goes to
benchmarks/results/.
"""

import argparse
import json
import multiprocessing
import statistics
import subprocess
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from results import ROOT, write_result

PLAIN = "plain"
# By the names that the rows bear.
VARIANTS: dict[str, tuple[str, ...]] = {
    PLAIN: (),
    "gelu": ("gelu",),
    "gelu, pieces": ("gelu", "pieces"),
    "gelu, bias_free": ("gelu", "bias_free"),
}
SIZES = (256, 512, 1024)


def prepare(model_name: str, size: int, folder: Path) -> dict[str, float]:
    """Write the graphs, an image and what torch makes of it; in a process of its own, for torch takes memory.

    Returns:
        Megabytes of each variant's graph.
    """
    import numpy as np
    import torch

    from samsdk_export.onnx_export import export_encoder
    from samsdk_training.models import build_sam, sam_med2d_config, sam_vit_config

    torch.manual_seed(0)
    model = build_sam(sam_med2d_config() if model_name == "sam-med2d" else sam_vit_config("b", size)).eval()
    with torch.no_grad():
        for name, parameter in model.image_encoder.named_parameters():
            # Positions are 0 in a new model, and would not show.
            if "rel_pos" in name or "pos_embed" in name:
                parameter.normal_(std=0.1)
    image = torch.randn(1, 3, size, size)
    with torch.inference_mode():
        np.save(folder / "truth.npy", model.image_encoder(image).numpy())
    np.save(folder / "image.npy", image.numpy())
    megabytes = {}
    for name, rewrites in VARIANTS.items():
        content = export_encoder(model, rewrites)
        (folder / f"{name}.onnx").write_bytes(content)
        megabytes[name] = round(len(content) / 1e6, 1)
    return megabytes


def run(device: str, repeats: int, folder: Path, *names: str) -> dict[str, Any]:
    """What `graph_process.py` measures in a fresh process."""
    script = Path(__file__).with_name("graph_process.py")
    command = [sys.executable, str(script), device, str(repeats), str(folder), *names]
    answer: dict[str, Any] = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    return answer


def measure_model(model_name: str, size: int, repeats: int) -> list[dict[str, Any]]:
    """A row for each backend and variant."""
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        # Not this process: a child's peak memory is never below what its parent's was when it was started.
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
            megabytes = pool.submit(prepare, model_name, size, folder).result()
        for device in ("cpu", *(["openvino"] if find_spec("openvino") else [])):
            turns = run(device, repeats, folder, *VARIANTS)
            peaks = {variant: run(device, 0, folder, variant)["peak_memory_mb"] for variant in VARIANTS}
            for variant, times in turns["ms"].items():
                ratios = [mine / plain for mine, plain in zip(times, turns["ms"][PLAIN], strict=True)]
                rows.append(
                    {
                        "model": model_name,
                        "image_size": size,
                        "device": device,
                        "rewrites": variant,
                        "ms": round(statistics.median(times), 1),
                        "over_plain": round(statistics.median(ratios), 3),
                        "peak_mb": round(peaks[variant]),
                        "peak_over_plain": round(peaks[variant] / peaks[PLAIN], 3),
                        "difference": turns["difference"][variant],
                        "megabytes": megabytes[variant],
                    }
                )
                print(rows[-1], file=sys.stderr, flush=True)
    return rows


def main() -> None:
    """Measure and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=lambda text: [int(size) for size in text.split(",")], default=list(SIZES))
    parser.add_argument("--repeats", type=int, default=7)
    args = parser.parse_args()
    if args.repeats < 1:
        parser.error(f"--repeats must be at least 1, got {args.repeats}")
    cases = [("sam-vit-b", size) for size in args.sizes] + [("sam-med2d", 256)] * (256 in args.sizes)
    rows = [row for case in cases for row in measure_model(*case, args.repeats)]
    print(write_result("vit_export", {"repeats": args.repeats, "rows": rows}).relative_to(ROOT))


if __name__ == "__main__":
    main()
