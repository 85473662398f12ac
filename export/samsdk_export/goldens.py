"""The images and prompts that every bundle is proved with, and the torch model's answers to them.

The images are real: scikit-image's `cell` (a cell under a phase microscope, grey, upright), `immunohistochemistry` (a
stained section, RGB, square) and a part of `retina` (fundus, RGB, lying), all free of known copyright restrictions,
made smaller.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import cv2
import numpy as np
import skimage.data
import torch
from numpy.typing import NDArray

from samsdk.golden import GoldenCase, golden_prompt
from samsdk.golden_points import GoldenPoints, thin
from samsdk.point_selection import PointSelection, select_points
from samsdk.prompts import PROMPT_KINDS, DecoderInputs, encode_prompt
from samsdk.transforms import Preprocessing
from samsdk_export.onnx_export import ExportError
from samsdk_training.models.sam import Sam
from samsdk_training.torch_predictor import model_prompt, point_probabilities

_LONGEST = 320

# (image, prompt): every kind of prompt and mixture, one to five points, both labels. Coordinates fit the shrunk images.
_PROMPTS: tuple[tuple[int, dict[str, Any]], ...] = (
    (0, {"box": [172.0, 146.0, 240.0, 214.0]}),
    (0, {"points": [[206.0, 180.0]], "labels": [1]}),
    (1, {"box": [157.0, 190.0, 239.0, 317.0]}),
    (1, {"box": [157.0, 190.0, 239.0, 317.0], "points": [[198.0, 250.0], [150.0, 300.0]], "labels": [1, 0]}),
    (1, {"points": [[198.0, 250.0], [120.0, 230.0]], "labels": [1, 0], "mask_from": 2}),
    (1, {"mask_from": 2}),
    (2, {"box": [38.0, 48.0, 106.0, 128.0]}),
    (2, {"points": [[80.0, 84.0], [74.0, 76.0], [86.0, 92.0], [150.0, 90.0], [20.0, 20.0]], "labels": [1, 1, 1, 0, 0]}),
)


def golden_images() -> list[NDArray[np.uint8]]:
    """Three real images: HxW or HxWx3 RGB, uint8, longest side 320."""
    images: list[NDArray[np.uint8]] = [
        skimage.data.cell(),
        skimage.data.immunohistochemistry(),
        skimage.data.retina()[400:1000, :1000],
    ]
    return [_shrink(image) for image in images]


def _shrink(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    scale = _LONGEST / max(image.shape[:2])
    size = (round(image.shape[1] * scale), round(image.shape[0] * scale))
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), dtype=np.uint8)


def golden_answers(
    model: Sam,
    preprocessing: Preprocessing,
    images: list[NDArray[np.uint8]],
    points: Sequence[GoldenPoints] = (),
) -> tuple[list[dict[str, NDArray[np.float32]]], list[GoldenCase]]:
    """Let the torch model answer the golden prompts.

    Args:
        model: in evaluation mode, float32.
        preprocessing: the checkpoint's; the same code prepares the image in the runtime.
        images: what `golden_images` returns.
        points: what `golden_points` returns, of a model that prompts itself; they are asked about as well.

    Returns:
        Each image's embeddings by name, and the cases.
    """
    prepared = [preprocessing.apply_image(image) for image in images]
    cases: list[GoldenCase] = []
    picked = [
        (index, {"points": one.points.tolist(), "labels": one.labels.astype(int).tolist()})
        for index, one in enumerate(points)
        if len(one.points)
    ]
    with torch.inference_mode():
        embeddings = [model.encode(torch.from_numpy(square)) for square, _ in prepared]
        for index, prompt in (*_PROMPTS, *picked):
            unanswered = GoldenCase(index, prompt, np.empty(0, np.float32), np.empty(0, np.float32))
            feeds = encode_prompt(
                golden_prompt(unanswered, cases),
                prepared[index][1],
                preprocessing,
                model.prompt_encoder.mask_side,
                PROMPT_KINDS,
            )
            logits, scores = torch_answer(model, embeddings[index], feeds)
            cases.append(GoldenCase(index, prompt, logits, scores))
    return [{name: tensor.numpy() for name, tensor in one.items()} for one in embeddings], cases


def golden_points(
    model: Sam, preprocessing: Preprocessing, images: list[NDArray[np.uint8]], selection: PointSelection
) -> list[GoldenPoints]:
    """Let a torch model that prompts itself point at the golden images.

    Args:
        model: in evaluation mode, float32, with a generator.
        preprocessing: the checkpoint's.
        images: what `golden_images` returns.
        selection: the checkpoint's.

    Raises:
        ExportError: the model has no generator.
    """
    found = []
    for image in images:
        square, frame = preprocessing.apply_image(image)
        probabilities = point_probabilities(model, torch.from_numpy(square))
        if probabilities is None:
            raise ExportError("the model has no generator, so that it cannot point by itself")
        found.append(GoldenPoints(thin(probabilities), *select_points(probabilities, frame, selection)))
    return found


def semantic_answers(
    model: Sam, preprocessing: Preprocessing, images: list[NDArray[np.uint8]]
) -> tuple[list[dict[str, NDArray[np.float32]]], list[GoldenCase]]:
    """Let a semantic torch model answer, once for each image; arguments and results as `golden_answers`."""
    cases, embeddings = [], []
    with torch.inference_mode():
        for index, image in enumerate(images):
            encoded = model.encode(torch.from_numpy(preprocessing.apply_image(image)[0]))
            logits, _ = model.decode_all(encoded)
            embeddings.append({name: tensor.numpy() for name, tensor in encoded.items()})
            # The predicted IoU of such a model was never trained.
            cases.append(GoldenCase(index, {}, logits[0].numpy(), np.zeros(0, np.float32)))
    return embeddings, cases


def torch_answer(
    model: Sam, embeddings: Mapping[str, torch.Tensor], feeds: DecoderInputs
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The torch model's answer to one prompt, through its own prompt encoder, not through the exported graph's wrapper.

    Args:
        model: in evaluation mode.
        embeddings: of the image, as `Sam.encode` returns them.
        feeds: what the runtime would feed to the decoder.

    Returns:
        Logits [1 + M, 4E, 4E] and predicted IoU [1 + M].
    """
    points, boxes, masks = model_prompt(feeds)
    answers = [
        model.decode(embeddings, points=points, boxes=boxes, masks=masks, multimask_output=multimask)
        for multimask in (False, True)
    ]
    logits = torch.cat([masks[0] for masks, _ in answers])
    return logits.numpy(), torch.cat([scores[0] for _, scores in answers]).numpy()
