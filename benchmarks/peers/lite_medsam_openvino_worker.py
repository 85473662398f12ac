"""LiteMedSAM's weights in OpenVINO, as entries of the CVPR24 challenge run theirs, one prompt after the other.

{"do": "load", "precision": "f32" or null, ...}    null leaves OpenVINO's choice, which the answer names
"""

import sys
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from lite_medsam import PACKAGE, mask_of, preprocess, sam_prompt
from numpy.typing import NDArray
from protocol import Decoded, Peer, Prompts, serve


class LiteMedSamOpenVino(Peer):
    """Two compiled models, each with an inference request of its own."""

    def load(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Compile what `export_lite_medsam.py` left in the folder."""
        import openvino

        core = openvino.Core()
        config: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY"}
        if request.get("threads") is not None:
            config["INFERENCE_NUM_THREADS"] = request["threads"]
        if request.get("precision") is not None:
            config["INFERENCE_PRECISION_HINT"] = request["precision"]
        compiled = [
            core.compile_model(Path(request["folder"]) / f"{name}.xml", "CPU", config)
            for name in ("encoder", "decoder")
        ]
        self._encoder, self._decoder = (model.create_infer_request() for model in compiled)
        precision = str(compiled[0].get_property("INFERENCE_PRECISION_HINT").to_string())
        chosen = "asked for" if request.get("precision") else "OpenVINO's default on this processor"
        return {
            "name": f"LiteMedSAM, OpenVINO, {precision}",
            "version": f"openvino {version('openvino')}, {PACKAGE} {version(PACKAGE)}, "
            f"segment-anything {version('segment-anything')}",
            "weights": "published",
            "precision": precision,
            "timed": "published preprocessing and encoder; each prompt's decoder, resize to the image and threshold; "
            f"computed in {precision}, {chosen}",
            "excluded": "reading the image file; the export and conversion",
        }

    def encode(self, image: NDArray[Any]) -> None:
        """Preprocess as published and run the encoder."""
        square, self._frame = preprocess(image)
        self._embedding = self._encoder.infer({"input_image": square})[0]

    def decode(self, prompts: Prompts) -> Decoded:
        """Run the decoder for each prompt, as the entries do."""
        masks = []
        for index in range(len(prompts)):
            box = None if prompts.boxes is None else prompts.boxes[index]
            given = (None, None) if box is not None else (prompts.points[index], prompts.labels[index])
            answer = self._decoder.infer({"image_embeddings": self._embedding, **sam_prompt(self._frame, box, *given)})
            # The first of four is the one that LiteMedSAM uses.
            masks.append(mask_of(answer["low_res_masks"][0, 0], self._frame))
        return Decoded(masks, batched=False)


if __name__ == "__main__":
    sys.exit(serve(LiteMedSamOpenVino()))
