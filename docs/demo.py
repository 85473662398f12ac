"""The demo: one click outlines a gland in a stained section; then LiteMedSAM is fetched, exported and proved beside it.

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
TEACHER = "lite-medsam"
# In scikit-image's immunohistochemical picture of colon: a click on the gland at the lower right, and a box around it.
POINT = (316, 400)
BOX = (250, 302, 384, 510)


def stage(text: str, *command: str) -> None:
    """Run one `samsdk` command, say what it does and how long it took, and stop the demo if it fails."""
    print(f"-- {text}: samsdk {' '.join(command)}", flush=True)
    start = time.perf_counter()
    if samsdk_program(command) != 0:
        sys.exit(1)
    print(f"   {time.perf_counter() - start:.1f} s", flush=True)


def main() -> None:
    """Segment from a click; pull, export and prove LiteMedSAM; say where everything is."""
    FOLDER.mkdir(exist_ok=True)
    image, output, overlay = FOLDER / "tissue.png", FOLDER / "mask.png", FOLDER / "overlay.png"
    write_png(image, skimage.data.immunohistochemistry())
    point, box = (",".join(map(str, prompt)) for prompt in (POINT, BOX))
    stage("checking the default model on this machine", "doctor")
    files = ("-o", str(output), "--overlay", str(overlay))
    stage("segmenting a gland from one click", "segment", str(image), "--point", point, *files)
    stage("fetching LiteMedSAM's weights", "models", "pull", TEACHER)
    if hub.bundle_path(TEACHER).exists():
        print(f"-- its bundle is there already: {hub.bundle_path(TEACHER)}")
    else:
        stage("exporting it and proving it", "export", TEACHER)
    stage("the same gland from a box, by LiteMedSAM", "segment", str(image), "--box", box, "--model", TEACHER)
    ours = samsdk.segment(image, points=[POINT])
    corrected = samsdk.segment(image, points=[POINT, (POINT[0] - 20, POINT[1])], mask=ours)
    theirs = samsdk.segment(image, box=BOX, model=TEACHER)
    print(f"mask:     {output.resolve()}")
    print(f"overlay:  {overlay.resolve()}")
    print(f"score:    {ours.score:.3f} (the model's own estimate of the mask's IoU)")
    for name, result in (("one click", ours), ("second click", corrected), ("LiteMedSAM, box", theirs)):
        print(f"{name + ':':<17}" + ", ".join(f"{part} {value:.1f} ms" for part, value in result.timings.items()))


if __name__ == "__main__":
    main()
