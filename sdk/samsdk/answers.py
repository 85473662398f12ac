"""What a decoder's graph answers to prompts, and which of its masks are wanted: one rule for runtime and training."""

import time
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from samsdk.backends import Backend
from samsdk.backends.tensorrt import TensorRtBackend
from samsdk.embedding import Embedding
from samsdk.errors import BackendError
from samsdk.prompts import DecoderInputs, decoder_feeds


def run_decoder(
    decoder: Backend, embedding: Embedding, prompts: Sequence[DecoderInputs]
) -> tuple[NDArray[np.float32], NDArray[np.float32], float]:
    """Run a decoder's graph once.

    Args:
        decoder: the loaded graph.
        embedding: of the image.
        prompts: of one number of tokens; none for a graph that takes none.

    Returns:
        Logits [P, 1 + M, 4E, 4E] and predicted IoU [P, 1 + M], of a graph without prompts [1, 1 + K, 4E, 4E] and
        [1, 0]; and the milliseconds that each prompt took.

    Raises:
        BackendError: the engine failed, or its output is not finite.
    """
    start = time.perf_counter()
    beside = isinstance(decoder, TensorRtBackend) and embedding.on_device
    outputs = decoder.run({**(beside or embedding.tensors), **(decoder_feeds(prompts) if prompts else {})})
    logits = outputs["low_res_masks"]
    milliseconds = (time.perf_counter() - start) * 1e3 / len(logits)
    check_finite(outputs)
    return logits, outputs.get("iou_predictions", np.zeros((len(logits), 0), np.float32)), milliseconds


def check_finite(outputs: Mapping[str, NDArray[np.float32]]) -> None:
    """Let no NaN leave the runtime.

    Raises:
        BackendError: one of a graph's outputs holds NaN or infinity.
    """
    for name, tensor in outputs.items():
        if not np.isfinite(tensor).all():
            raise BackendError(f"the engine's output {name} holds NaN or infinity; run `samsdk doctor` on this device")


def wanted_masks(
    logits: NDArray[np.float32], scores: NDArray[np.float32], multimask: bool, single: str
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Choose among all masks of each prompt.

    Args:
        logits: [P, 1 + M, L, L]; the first mask is the single one, the others are for ambiguous prompts.
        scores: [P, 1 + M], predicted IoU.
        multimask: whether the masks for ambiguous prompts were asked for, instead of one.
        single: which mask answers when one is asked for: the `first`, or the `best` of the others by score.

    Returns:
        Logits [P, 1 or M, L, L] and scores [P, 1 or M].
    """
    if not multimask and single == "best":
        best = 1 + scores[:, 1:].argmax(axis=1, keepdims=True)
        return np.take_along_axis(logits, best[:, :, None, None], axis=1), np.take_along_axis(scores, best, axis=1)
    wanted = slice(1, None) if multimask else slice(0, 1)
    return logits[:, wanted], scores[:, wanted]
