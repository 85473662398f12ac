"""osam's path for `sam:100m`: its own sessions, preprocessing and answers, around graphs of random weights.

osam downloads its graphs; the worker gives it others of the same make, which `export_sam_vit_b.py` left in the folder.
"""

import json
import os
import sys
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from protocol import Decoded, Peer, Prompts, serve

BOX_CORNERS = (2, 3)


class Osam(Peer):
    """A model of osam's class `Sam`, asked through `generate`."""

    def load(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Open the graphs in the folder as osam opens what it downloaded."""
        folder = Path(request["folder"])
        # Where osam looks for its files.
        os.environ["HOME"] = os.environ["USERPROFILE"] = str(folder)
        import onnxruntime
        import osam
        from osam._models.sam._models import Sam

        _set_threads(onnxruntime, request.get("threads"))
        hashes = json.loads((folder / "osam.json").read_text(encoding="utf-8"))
        blobs = {name: osam.types.Blob(url=f"file:{name}.onnx", hash=hashes[name]) for name in ("encoder", "decoder")}
        self._osam = osam
        self._model = type("Sam100m", (Sam,), {"name": "sam:100m", "_blobs": blobs})()
        return {
            "name": "osam, sam:100m, ONNX Runtime",
            "version": f"osam {version('osam')}, onnxruntime {onnxruntime.__version__}",
            "weights": "random",
            "timed": "`encode_image`; `generate` for each prompt, and its mask put back into the image's size",
            "excluded": "reading the image file; the download",
        }

    def encode(self, image: NDArray[Any]) -> None:
        """`encode_image`."""
        self._size = image.shape[:2]
        self._embedding = self._model.encode_image(image)

    def decode(self, prompts: Prompts) -> Decoded:
        """`generate` for each prompt: a request holds one."""
        if prompts.boxes is not None:
            asked = [(box.reshape(2, 2), np.array(BOX_CORNERS)) for box in prompts.boxes]
        else:
            asked = list(zip(prompts.points, prompts.labels, strict=True))
        return Decoded([self._mask(points, labels) for points, labels in asked], batched=False)

    def _mask(self, points: NDArray[np.float64], labels: NDArray[np.int64]) -> NDArray[np.bool_]:
        types = self._osam.types
        prompt = types.Prompt(points=points, point_labels=labels)
        request = types.GenerateRequest(model=self._model.name, image_embedding=self._embedding, prompt=prompt)
        (found,) = self._model.generate(request).annotations
        mask = np.zeros(self._size, dtype=bool)
        box = found.bounding_box
        mask[box.ymin : box.ymax + 1, box.xmin : box.xmax + 1] = found.mask
        return mask


def _set_threads(onnxruntime: Any, threads: int | None) -> None:
    """osam opens sessions without options; the default ones are the only place for a number of threads."""
    if threads is None:
        return
    plain = onnxruntime.InferenceSession

    def with_threads(path: str, **how: Any) -> Any:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        return plain(path, options, **how)

    onnxruntime.InferenceSession = with_threads


if __name__ == "__main__":
    sys.exit(serve(Osam()))
