"""The golden self-test: images and prompts that a bundle carries, with what the original model answered.

Export writes them, its parity check and `samsdk doctor` replay them through the runtime: image in, logits out.
"""

import io
import json
import warnings
import zipfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from samsdk.bundle import GOLDEN, Bundle
from samsdk.embedding import Embedding
from samsdk.errors import BundleError
from samsdk.masks import mask_iou
from samsdk.predictor import Predictor
from samsdk.prompts import Prompt

# Bounds of a passed certificate at full precision; a device that exceeds them does not compute the validated model.
MAX_LOGIT_DIFFERENCE: Final = 1e-3
MAX_SCORE_DIFFERENCE: Final = 1e-3
MIN_MASK_IOU: Final = 0.999


@dataclass(frozen=True, eq=False)
class GoldenCase:
    """One prompt on one golden image, and the original model's answer.

    Attributes:
        image: index into the golden images.
        prompt: points, labels and box as users give them; a mask prompt is the index of the case whose first mask's
            logits it takes, under the key `mask_from`.
        low_res_masks: [1 + M, 4E, 4E] float32 logits.
        iou_predictions: [1 + M] float32.
    """

    image: int
    prompt: dict[str, Any]
    low_res_masks: NDArray[np.float32]
    iou_predictions: NDArray[np.float32]


@dataclass(frozen=True)
class Parity:
    """How far a backend's answers are from the original model's, over all golden cases and all their masks."""

    passed: bool
    cases: int
    max_logit_difference: float
    max_iou_prediction_difference: float
    mean_mask_iou: float
    min_mask_iou: float
    nan: bool
    provider: str

    def to_dict(self) -> dict[str, Any]:
        """The measurements and the bounds they were held against."""
        return {
            **asdict(self),
            "bounds": {
                "max_logit_difference": MAX_LOGIT_DIFFERENCE,
                "max_iou_prediction_difference": MAX_SCORE_DIFFERENCE,
                "mean_mask_iou": MIN_MASK_IOU,
            },
        }


def write_golden(images: Sequence[NDArray[np.uint8]], cases: Sequence[GoldenCase]) -> bytes:
    """The content of `golden.npz`."""
    arrays: dict[str, NDArray[np.generic]] = {f"image_{index}": image for index, image in enumerate(images)}
    prompts = [{"image": case.image, "prompt": case.prompt} for case in cases]
    arrays["low_res_masks"] = np.stack([case.low_res_masks for case in cases])
    arrays["iou_predictions"] = np.stack([case.iou_predictions for case in cases])
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, prompts=np.array(json.dumps(prompts)), **arrays)
    return buffer.getvalue()


def read_golden(bundle: Bundle) -> tuple[list[NDArray[np.uint8]], list[GoldenCase]]:
    """The golden images and cases of a bundle.

    Raises:
        BundleError: the bundle has none, or the file is damaged or holds NaN.
    """
    try:
        with np.load(io.BytesIO(bundle.read(GOLDEN)), allow_pickle=False) as archive:
            prompts = json.loads(str(archive["prompts"]))
            masks, scores = archive["low_res_masks"], archive["iou_predictions"]
            images = [archive[f"image_{index}"] for index in range(sum(name[:6] == "image_" for name in archive.files))]
        cases = [
            GoldenCase(entry["image"], entry["prompt"], mask, score)
            for entry, mask, score in zip(prompts, masks, scores, strict=True)
        ]
    except (KeyError, ValueError, TypeError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise BundleError(f"{GOLDEN} in {bundle.path} cannot be read: {error}") from error
    # Every comparison with NaN is false, so a bound could be held against it unseen.
    if not cases or not np.isfinite(masks).all() or not np.isfinite(scores).all():
        raise BundleError(f"{GOLDEN} in {bundle.path} proves nothing: it holds no case, or NaN or infinite answers")
    return images, cases


def measure_parity(predictor: Predictor) -> Parity:
    """Replay the golden cases through a predictor, and measure how far its answers are from the original model's.

    Raises:
        BundleError: the bundle has no golden cases.
        BackendError: the engine failed, or its output is not finite.
    """
    images, cases = read_golden(predictor.bundle)
    embeddings = [predictor.encode(image) for image in images]
    logit_differences, score_differences, overlaps = [], [], []
    for case in cases:
        logits, scores = _all_masks(predictor, embeddings[case.image], golden_prompt(case, cases))
        logit_differences.append(float(np.abs(logits - case.low_res_masks).max()))
        score_differences.append(float(np.abs(scores - case.iou_predictions).max()))
        overlaps += [
            mask_iou(mine > predictor.mask_threshold, theirs > predictor.mask_threshold)
            for mine, theirs in zip(logits, case.low_res_masks, strict=True)
        ]
    largest, score, mean = max(logit_differences), max(score_differences), float(np.mean(overlaps))
    return Parity(
        # Scores count too: they choose among the masks, and users gate on them.
        passed=largest <= MAX_LOGIT_DIFFERENCE and score <= MAX_SCORE_DIFFERENCE and mean >= MIN_MASK_IOU,
        cases=len(cases),
        max_logit_difference=largest,
        max_iou_prediction_difference=score,
        mean_mask_iou=mean,
        min_mask_iou=min(overlaps),
        # The predictor raises on the first NaN, so that reaching this line means that there was none.
        nan=False,
        provider=predictor.provider,
    )


def _all_masks(
    predictor: Predictor, embedding: Embedding, prompt: Prompt
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Logits and scores of the single mask and of those for ambiguous prompts."""
    modes = (False, True) if predictor.manifest.multimask_outputs else (False,)
    with warnings.catch_warnings():
        # Golden prompts cover every kind that the graph takes, also those that the weights were not trained with.
        warnings.simplefilter("ignore", UserWarning)
        answers = [predictor.decode_batch(embedding, [prompt], multimask=mode)[0] for mode in modes]
    logits = np.concatenate([answer.low_res_logits for answer in answers])
    return logits, np.concatenate([answer.scores for answer in answers])


def golden_prompt(case: GoldenCase, cases: Sequence[GoldenCase]) -> Prompt:
    """The prompt of a case, with its mask prompt taken from the case that it names."""
    fields = {key: value for key, value in case.prompt.items() if key != "mask_from"}
    source = case.prompt.get("mask_from")
    return Prompt(**fields, mask=None if source is None else cases[source].low_res_masks[0])
