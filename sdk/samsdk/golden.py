"""The golden self-test: images and prompts that a bundle carries, with what the original model answered.

Export writes them, its parity check and `samsdk doctor` replay them through the runtime: image in, logits out.
"""

import io
import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from samsdk.bundle import GOLDEN, Bundle, open_arrays
from samsdk.embedding import Embedding
from samsdk.errors import BundleError
from samsdk.golden_points import PointParity, measure_points, read_golden_points
from samsdk.manifest import SEMANTIC, Manifest
from samsdk.masks import mask_iou
from samsdk.predictor import Predictor
from samsdk.prompts import Prompt

# How many values of each embedding are compared; drawn once, by a fixed seed.
_SAMPLED: Final = 4096


@dataclass(frozen=True)
class Bounds:
    """What a passed certificate may not exceed; None is not held."""

    max_logit_difference: float | None
    max_iou_prediction_difference: float | None
    mean_mask_iou: float


# At full precision; a device that exceeds them does not compute the validated model.
EXACT: Final = Bounds(1e-3, 1e-3, 0.999)
# At lower precision what counts is Dice, which export measures on calibration sets; this only catches the absurd.
LOWER: Final = Bounds(None, None, 0.8)
# How much worse than the certificate of the exporting machine another device may be: its rounding is another.
_SLACK: Final = 0.01


@dataclass(frozen=True, eq=False)
class GoldenCase:
    """One prompt on one golden image, and the original model's answer.

    Attributes:
        image: index into the golden images.
        prompt: points, labels and box as users give them, nothing for a semantic bundle; a mask prompt is the index of
            the case whose first mask's logits it takes, under the key `mask_from`.
        low_res_masks: [1 + M, 4E, 4E] float32 logits.
        iou_predictions: [1 + M] float32; [0] of a semantic model.
    """

    image: int
    prompt: dict[str, Any]
    low_res_masks: NDArray[np.float32]
    iou_predictions: NDArray[np.float32]


@dataclass(frozen=True)
class Parity:
    """How far a backend's answers are from the original model's, over all golden cases and all their masks.

    Of a bundle that prompts itself, `points` says the same of what it points at.
    """

    passed: bool
    cases: int
    max_embedding_difference: float
    mean_embedding_difference: float
    max_logit_difference: float
    mean_logit_difference: float
    max_iou_prediction_difference: float
    mean_mask_iou: float
    min_mask_iou: float
    nan: bool
    provider: str
    bounds: Bounds
    points: PointParity | None = None

    def to_dict(self) -> dict[str, Any]:
        """The measurements and the bounds they were held against."""
        return asdict(self)


def sample_embedding(tensor: NDArray[np.float32]) -> NDArray[np.float32]:
    """The values of one embedding that are kept and compared, at most 4096."""
    flat = tensor.reshape(-1)
    if len(flat) <= _SAMPLED:
        return flat
    return flat[np.random.default_rng(0).choice(len(flat), _SAMPLED, replace=False)]


def write_golden(
    images: Sequence[NDArray[np.uint8]],
    embeddings: Sequence[Mapping[str, NDArray[np.float32]]],
    cases: Sequence[GoldenCase],
) -> bytes:
    """The content of `golden.npz`; of each image's embeddings only a sample is kept."""
    arrays: dict[str, NDArray[np.generic]] = {f"image_{index}": image for index, image in enumerate(images)}
    for index, tensors in enumerate(embeddings):
        arrays |= {f"embedding_{index}_{name}": sample_embedding(tensor) for name, tensor in tensors.items()}
    prompts = [{"image": case.image, "prompt": case.prompt} for case in cases]
    arrays["low_res_masks"] = np.stack([case.low_res_masks for case in cases])
    arrays["iou_predictions"] = np.stack([case.iou_predictions for case in cases])
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, prompts=np.array(json.dumps(prompts)), **arrays)
    return buffer.getvalue()


def read_golden(
    bundle: Bundle,
) -> tuple[list[NDArray[np.uint8]], list[dict[str, NDArray[np.float32]]], list[GoldenCase]]:
    """The golden images, the samples of their embeddings (by name), and the cases of a bundle.

    Raises:
        BundleError: the bundle has none, or the file is damaged or holds NaN.
    """
    with open_arrays(bundle, GOLDEN) as archive:
        prompts = json.loads(str(archive["prompts"]))
        masks, scores = archive["low_res_masks"], archive["iou_predictions"]
        images = [archive[f"image_{index}"] for index in range(sum(name[:6] == "image_" for name in archive.files))]
        # What the encoder's graph makes beyond the model's embeddings shows in the logits.
        names = [name for name in bundle.manifest.embedding if f"embedding_0_{name}" in archive]
        if not names:
            raise KeyError("embedding_0_image_embeddings")
        samples = [{name: archive[f"embedding_{index}_{name}"] for name in names} for index in range(len(images))]
        cases = [
            GoldenCase(entry["image"], entry["prompt"], mask, score)
            for entry, mask, score in zip(prompts, masks, scores, strict=True)
        ]
    # Every comparison with NaN is false, so a bound could be held against it unseen.
    values = [masks, scores, *(value for sample in samples for value in sample.values())]
    if not cases or not all(np.isfinite(value).all() for value in values):
        raise BundleError(f"{GOLDEN} in {bundle.path} proves nothing: it holds no case, or NaN or infinite answers")
    return images, samples, cases


def golden_bounds(bundle: Bundle, tier: str) -> Bounds:
    """What a device is held to: in full precision the checkpoint, in lower ones the exporting machine's certificate."""
    if tier == "exact":
        return EXACT
    measured = [float(one["mean_mask_iou"]) for one in bundle.manifest.parity.get(tier, {}).values()]
    return Bounds(None, None, min(measured) - _SLACK) if measured else LOWER


def measure_parity(predictor: Predictor, bounds: Bounds | None = None) -> Parity:
    """Replay the golden cases through a predictor, and measure how far its answers are from the original model's.

    Args:
        predictor: with the bundle and on the device that are examined.
        bounds: what it may not exceed; None asks `golden_bounds`.

    Raises:
        BundleError: the bundle has no golden cases.
        BackendError: the engine failed, or its output is not finite.
    """
    held = bounds or golden_bounds(predictor.bundle, predictor.tier)
    images, samples, cases = read_golden(predictor.bundle)
    embeddings = [predictor.encode(image) for image in images]
    drift = [
        np.abs(sample_embedding(embedding.tensors[name]) - value)
        for embedding, sample in zip(embeddings, samples, strict=True)
        for name, value in sample.items()
    ]
    logit_differences, score_differences, overlaps = [], [], []
    for case in cases:
        with warnings.catch_warnings():
            # Golden prompts cover every kind that the graph takes, also those that the weights were not trained with.
            warnings.simplefilter("ignore", UserWarning)
            logits, scores = predictor.decode_all(embeddings[case.image], golden_prompt(case, cases))
        logit_differences.append(np.abs(logits - case.low_res_masks))
        score_differences.append(float(np.abs(scores - case.iou_predictions).max(initial=0.0)))
        mine, theirs = (answer_masks(one, predictor.manifest) for one in (logits, case.low_res_masks))
        overlaps += [mask_iou(*pair) for pair in zip(mine, theirs, strict=True)]
    largest, score = max(float(one.max()) for one in logit_differences), max(score_differences)
    mean = float(np.mean(overlaps))
    points = _measure_points(predictor, embeddings)
    return Parity(
        # Scores count too: they choose among the masks, and users gate on them.
        passed=_within(largest, held.max_logit_difference)
        and _within(score, held.max_iou_prediction_difference)
        and mean >= held.mean_mask_iou
        and (points is None or points.passed),
        cases=len(cases),
        max_embedding_difference=max(float(one.max()) for one in drift),
        mean_embedding_difference=float(np.mean([one.mean() for one in drift])),
        max_logit_difference=largest,
        mean_logit_difference=float(np.mean([one.mean() for one in logit_differences])),
        max_iou_prediction_difference=score,
        mean_mask_iou=mean,
        min_mask_iou=min(overlaps),
        # The predictor raises on the first NaN, so that reaching this line means that there was none.
        nan=False,
        provider=predictor.provider,
        bounds=held,
        points=points,
    )


def _measure_points(predictor: Predictor, embeddings: Sequence[Embedding]) -> PointParity | None:
    auto = predictor.manifest.auto
    if auto is None:
        return None
    return measure_points(embeddings, read_golden_points(predictor.bundle), auto.selection)


def _within(value: float, bound: float | None) -> bool:
    return bound is None or value <= bound


def answer_masks(logits: NDArray[np.float32], manifest: Manifest) -> NDArray[np.bool_]:
    """The masks that a decoder's logits [1 + M, 4E, 4E] stand for: one each, or one for each class, [M, 4E, 4E]."""
    if manifest.task != SEMANTIC:
        return logits > manifest.mask_threshold
    numbers = np.arange(1, len(logits))
    return np.asarray(logits.argmax(axis=0) == numbers[:, None, None])


def golden_prompt(case: GoldenCase, cases: Sequence[GoldenCase]) -> Prompt:
    """The prompt of a case, with its mask prompt taken from the case that it names."""
    fields = {key: value for key, value in case.prompt.items() if key != "mask_from"}
    source = case.prompt.get("mask_from")
    return Prompt(**fields, mask=None if source is None else cases[source].low_res_masks[0])
