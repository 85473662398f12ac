"""The demo: LiteMedSAM's weights become a bundle, and the bundle segments a gland in a stained section, from a box.

make demo            # or, in an installed environment: python docs/demo.py
"""

import sys
import time
from pathlib import Path

import skimage.data

import samsdk
from samsdk import hub
from samsdk.cli import main as samsdk_program
from samsdk.io.images import write_png

FOLDER = Path("demo")
MODEL = "lite-medsam"
# (x0, y0, x1, y1) around the gland at the lower right of scikit-image's immunohistochemical picture of colon.
BOX = (250, 302, 384, 510)


def stage(text: str, *command: str) -> None:
    """Run one `samsdk` command, say what it does and how long it took, and stop the demo if it fails."""
    print(f"-- {text}: samsdk {' '.join(command)}", flush=True)
    start = time.perf_counter()
    if samsdk_program(command) != 0:
        sys.exit(1)
    print(f"   {time.perf_counter() - start:.1f} s", flush=True)


def main() -> None:
    """Pull, export, segment, and say where everything is."""
    FOLDER.mkdir(exist_ok=True)
    stage("fetching the weights", "models", "pull", MODEL)
    if hub.bundle_path(MODEL).exists():
        print(f"-- the bundle is there already: {hub.bundle_path(MODEL)}")
    else:
        stage("exporting the bundle and proving it", "export", MODEL)
    stage("checking it on this machine", "doctor", MODEL)
    image = FOLDER / "tissue.png"
    write_png(image, skimage.data.immunohistochemistry())
    box = ",".join(map(str, BOX))
    output, overlay = FOLDER / "mask.png", FOLDER / "overlay.png"
    command = ("segment", str(image), "--box", box, "--model", MODEL, "-o", str(output), "--overlay", str(overlay))
    stage("segmenting a gland from a box", *command)
    again = samsdk.segment(image, box=BOX, model=MODEL)
    once_more = samsdk.segment(image, box=(BOX[0] - 6, *BOX[1:]), model=MODEL)
    print(f"mask:     {output.resolve()}")
    print(f"overlay:  {overlay.resolve()}")
    print(f"score:    {again.score:.3f} (the model's own estimate of the mask's IoU)")
    print("first prompt on an image:  " + ", ".join(f"{name} {value:.1f} ms" for name, value in again.timings.items()))
    print(
        "next prompt, same image:   " + ", ".join(f"{name} {value:.1f} ms" for name, value in once_more.timings.items())
    )


if __name__ == "__main__":
    main()
