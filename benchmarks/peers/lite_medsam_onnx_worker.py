"""The plain ONNX export of LiteMedSAM's weights in plain ONNX Runtime, one prompt after the other."""

import sys
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from lite_medsam import PACKAGE, mask_of, preprocess, sam_prompt
from numpy.typing import NDArray
from protocol import Decoded, Peer, Prompts, serve


class LiteMedSamOnnx(Peer):
    """Two sessions with default options but the number of threads."""

    def load(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Open the graphs that `export_lite_medsam.py` left in the folder."""
        import onnxruntime

        options = onnxruntime.SessionOptions()
        if request.get("threads") is not None:
            options.intra_op_num_threads = request["threads"]
        self._encoder, self._decoder = (
            onnxruntime.InferenceSession(
                str(Path(request["folder"]) / f"{name}.onnx"), options, providers=["CPUExecutionProvider"]
            )
            for name in ("encoder", "decoder")
        )
        return {
            "name": "LiteMedSAM, ONNX Runtime, plain export",
            "version": f"onnxruntime {onnxruntime.__version__}, {PACKAGE} {version(PACKAGE)}, "
            f"segment-anything {version('segment-anything')}",
            "weights": "published",
            "timed": "published preprocessing and encoder; each prompt's decoder, resize to the image and threshold",
            "excluded": "reading the image file; the export",
        }

    def encode(self, image: NDArray[Any]) -> None:
        """Preprocess as published and run the encoder."""
        square, self._frame = preprocess(image)
        (self._embedding,) = self._encoder.run(None, {"input_image": square})

    def decode(self, prompts: Prompts) -> Decoded:
        """Run the decoder for each prompt: the official graph takes one."""
        masks = []
        for index in range(len(prompts)):
            box = None if prompts.boxes is None else prompts.boxes[index]
            given = (None, None) if box is not None else (prompts.points[index], prompts.labels[index])
            feeds = {"image_embeddings": self._embedding, **sam_prompt(self._frame, box, *given)}
            (logits,) = self._decoder.run(["low_res_masks"], feeds)
            # The first of four is the one that LiteMedSAM uses.
            masks.append(mask_of(logits[0, 0], self._frame))
        return Decoded(masks, batched=False)


if __name__ == "__main__":
    sys.exit(serve(LiteMedSamOnnx()))
