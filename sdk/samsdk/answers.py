"""What a bundle's graphs answer, and which of the decoder's masks are wanted: one rule for runtime and training."""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from samsdk.backends import Backend
from samsdk.backends.cuda import DeviceArray
from samsdk.backends.tensorrt import TensorRtBackend
from samsdk.embedding import Embedding
from samsdk.errors import BackendError
from samsdk.prompts import DecoderInputs, decoder_feeds
from samsdk.results import Result

# In one engine call: more only takes more memory, and compiled engines are built for as many.
MOST_PROMPTS: Final = 64
# A processor is busy with fewer: 64 of LiteMedSAM take 2.7 GB and a sixth more time, 16 at once 1.1 GB.
_MOST_ON_CPU: Final = 16


def alike_prompts(prompts: Sequence[DecoderInputs], provider: str) -> Iterator[list[int]]:
    """Indices of prompts that share an engine call: of one number of tokens, up to 64, on a processor up to 16.

    Args:
        prompts: of any numbers of tokens.
        provider: what runs the decoder, see `Backend.provider`.
    """
    most = _MOST_ON_CPU if "CPU" in provider else MOST_PROMPTS
    groups: dict[int, list[int]] = {}
    for index, feeds in enumerate(prompts):
        groups.setdefault(len(feeds.point_labels), []).append(index)
    for group in groups.values():
        for start in range(0, len(group), most):
            yield group[start : start + most]


def run_encoder(
    encoder: Backend, pixels: NDArray[np.float32]
) -> tuple[dict[str, NDArray[np.float32]], Mapping[str, DeviceArray] | None]:
    """Run an encoder's graph on the pixels [1, 3, S, S] of one image.

    Returns:
        Its outputs by name; and the same in a GPU's memory, where the engine leaves them there.

    Raises:
        BackendError: the engine failed, or its output is not finite.
    """
    on_device = None
    if isinstance(encoder, TensorRtBackend):
        # The decoder reads them where they are; the copy is for the check, for `save`, and for decoders elsewhere.
        on_device = encoder.run_on_device({"image": pixels})
        tensors = {name: array.numpy() for name, array in on_device.items()}
    else:
        tensors = encoder.run({"image": pixels})
    check_finite(tensors)
    return tensors, on_device


def run_prompter(prompter: Backend | None, pixels: NDArray[np.float32]) -> NDArray[np.float32] | None:
    """Run the graph that says where points may go on the pixels of one image; None where a bundle has none.

    Returns:
        Probabilities [S, S].

    Raises:
        BackendError: the engine failed, or its output is not finite.
    """
    if prompter is None:
        return None
    outputs = prompter.run({"image": pixels})
    check_finite(outputs)
    # An engine's sigmoid may leave 0 to 1 by a rounding.
    return np.asarray(outputs["point_probabilities"][0, 0].clip(0, 1), dtype=np.float32)


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


def of_scan(results: Sequence[Result], embedding: Embedding) -> list[Result]:
    """The results with what the embedding knows about its scan."""
    return [replace(result, spacing=embedding.spacing, source=embedding.source) for result in results]


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
