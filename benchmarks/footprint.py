"""What the runtime alone costs a device: size of a virtual environment with nothing but it, import time, cold start.

    python benchmarks/footprint.py

A fresh environment is made in a temporary folder and samsdk is installed without extras; then fresh processes import
it, and segment from a point with the default model. The JSON goes to benchmarks/results/.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import skimage.data

from results import ROOT, write_result
from samsdk.io.images import write_png

REPEATS = 7
IMPORT = """
import json, time
start = time.perf_counter()
import samsdk
print(json.dumps({"import_s": time.perf_counter() - start}))
"""
SEGMENT = """
import json, sys, time
import samsdk
result = samsdk.segment(sys.argv[1], points=[(316, 400)])
# From before this process was started: the interpreter's own start counts too.
seconds = time.time() - float(sys.argv[2])
from samsdk.environment import peak_memory_mb
heavy = [name for name in ("torch", "onnx", "monai") if name in sys.modules]
print(json.dumps({"first_mask_s": seconds, "peak_memory_mb": peak_memory_mb(), "area": result.area, "heavy": heavy}))
"""


def run(python: Path, code: str, *arguments: str) -> dict[str, Any]:
    """Run code in a fresh process of an environment, from a folder that holds no samsdk; it prints one JSON object."""
    command = [str(python), "-c", code, *arguments]
    answer: dict[str, Any] = json.loads(
        subprocess.run(command, capture_output=True, text=True, check=True, cwd=python.parent).stdout
    )
    return answer


def main() -> None:
    """Measure and write the JSON."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    with tempfile.TemporaryDirectory() as folder:
        environment = Path(folder) / "venv"
        print("making an environment with the runtime alone", file=sys.stderr)
        subprocess.run([sys.executable, "-m", "venv", str(environment)], check=True)
        python = environment / "bin" / "python"
        install = [str(python), "-m", "pip", "install", "--quiet", "-c", str(ROOT / "constraints.txt"), str(ROOT)]
        subprocess.run(install, check=True)
        # What `du` counts: blocks on disk, pip and its caches included, as a user sees it.
        blocks = sum(file.lstat().st_blocks for file in environment.rglob("*"))
        image = Path(folder) / "tissue.png"
        write_png(image, skimage.data.immunohistochemistry())
        imports = [run(python, IMPORT)["import_s"] for _ in range(REPEATS)]
        segments = [run(python, SEGMENT, str(image), repr(time.time())) for _ in range(REPEATS)]
    numbers = {
        "environment_mib": round(blocks * 512 / 2**20, 1),
        "import_s": round(statistics.median(imports), 3),
        "first_mask_s": round(statistics.median(segment["first_mask_s"] for segment in segments), 2),
        "peak_memory_mb": round(max(segment["peak_memory_mb"] for segment in segments)),
        "heavy_modules": segments[0]["heavy"],
    }
    path = write_result("footprint", numbers)
    print(json.dumps(numbers, indent=1))
    print(path)


if __name__ == "__main__":
    main()
