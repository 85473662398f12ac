"""SAM ViT-B at 1024 pixels as samsdk exports it, with random weights: what it takes can be measured, what it finds not.

python benchmarks/random_vit_b.py BUNDLE

Nothing if the bundle is there already. benchmarks/side_by_side.py takes it as `--bundle sam-vit-b=BUNDLE`.
"""

import argparse
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import torch

from samsdk_export.bundle_writer import write_bundle
from samsdk_training.importers import import_weights
from samsdk_training.models import build_sam, sam_vit_config

KIND = "sam-vit-b"


def main() -> None:
    """Write the bundle."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    destination = parser.parse_args().bundle
    if destination.exists():
        return
    destination.parent.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    model = build_sam(sam_vit_config("b"))
    with tempfile.TemporaryDirectory() as folder:
        # The form that such weights are published in, which is what the importer reads; nothing else is written so.
        path = Path(folder) / "weights.pth"
        torch.save(model.state_dict(), path)
        checkpoint = import_weights(path, KIND)
    named = replace(checkpoint, lineage={"weights": "random"})
    write_bundle(named, destination, name=KIND, progress=lambda line: print(line, file=sys.stderr, flush=True))


if __name__ == "__main__":
    main()
