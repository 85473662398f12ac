"""The golden self-test of a volume bundle: crops of real volumes, with what the original model answered.

As `samsdk.golden` has it for images: intensities scaled, network run, logits and labels compared.
"""

import io
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from samsdk.bundle import GOLDEN, Bundle, open_arrays
from samsdk.environment import peak_memory_mb
from samsdk.errors import BundleError
from samsdk.golden import Bounds, golden_bounds
from samsdk.volumes.predictor import VolumePredictor

# How many logits of each crop are kept and compared; drawn once, by a fixed seed.
_SAMPLED: Final = 2**16


@dataclass(frozen=True, eq=False)
class GoldenCrop:
    """A crop and the original model's answer.

    Attributes:
        voxels: [D, H, W], in a scanner's numbers.
        logits: a sample of [classes, D, H, W] float32, see `sample_logits`.
        labels: [D, H, W], the class of the largest logit.
    """

    voxels: NDArray[np.int16]
    logits: NDArray[np.float32]
    labels: NDArray[np.uint16]

    @classmethod
    def of(cls, voxels: NDArray[np.int16], logits: NDArray[np.float32]) -> "GoldenCrop":
        """A crop with all logits [classes, D, H, W] that the original model gives for it."""
        return cls(voxels, sample_logits(logits), logits.argmax(axis=0).astype(np.uint16))


@dataclass(frozen=True)
class VolumeParity:
    """How far a backend's answers are from the original model's, over all golden crops.

    `mean_mask_iou` and `min_mask_iou` are over the classes that either of the two finds. `window_ms` is the time of the
    last crop, and `peak_memory_mb` the most memory that this process ever held (None where the system does not tell).
    """

    passed: bool
    cases: int
    max_logit_difference: float
    mean_logit_difference: float
    mean_mask_iou: float
    min_mask_iou: float
    nan: bool
    provider: str
    window_ms: float
    peak_memory_mb: float | None
    bounds: Bounds

    def to_dict(self) -> dict[str, Any]:
        """The measurements and the bounds they were held against."""
        return asdict(self)


def sample_logits(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """The logits of a crop that are kept and compared, at most 65,536."""
    flat = logits.reshape(-1)
    if len(flat) <= _SAMPLED:
        return flat
    return flat[np.random.default_rng(0).integers(0, len(flat), _SAMPLED)]


def write_crops(crops: Sequence[GoldenCrop]) -> bytes:
    """The content of `golden.npz`."""
    arrays: dict[str, Any] = {}
    for index, crop in enumerate(crops):
        arrays |= {f"{name}_{index}": value for name, value in vars(crop).items()}
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, **arrays)
    return buffer.getvalue()


def read_crops(bundle: Bundle) -> list[GoldenCrop]:
    """The golden crops of a bundle.

    Raises:
        BundleError: the bundle has none, or the file is damaged or holds NaN.
    """
    names = ("voxels", "logits", "labels")
    with open_arrays(bundle, GOLDEN) as archive:
        count = len(archive.files) // len(names)
        crops = [GoldenCrop(*(archive[f"{name}_{index}"] for name in names)) for index in range(count)]
    # Every comparison with NaN is false, so a bound could be held against it unseen.
    if not crops or not all(np.isfinite(crop.logits).all() for crop in crops):
        raise BundleError(f"{GOLDEN} in {bundle.path} proves nothing: it holds no crop, or NaN or infinite answers")
    return crops


def measure_crops(predictor: VolumePredictor, bounds: Bounds | None = None) -> VolumeParity:
    """Replay the golden crops through a predictor, and measure how far its answers are from the original model's.

    Args:
        predictor: with the bundle and on the device that are examined.
        bounds: what it may not exceed; None asks `golden_bounds`.

    Raises:
        BundleError: the bundle has no golden crops.
        BackendError: the engine failed, or its output is not finite.
    """
    held = bounds or golden_bounds(predictor.bundle, predictor.tier)
    intensity, crops = predictor.preprocessing.intensity, read_crops(predictor.bundle)
    differences, overlaps, seconds = [], [], 0.0
    for crop in crops:
        start = time.perf_counter()
        logits = predictor.run(intensity.apply(crop.voxels)[None, None])[0]
        seconds = time.perf_counter() - start
        differences.append(np.abs(sample_logits(logits) - crop.logits))
        overlaps += _overlaps(logits.argmax(axis=0), crop.labels)
    largest, mean = max(float(one.max()) for one in differences), float(np.mean(overlaps))
    return VolumeParity(
        passed=(held.max_logit_difference is None or largest <= held.max_logit_difference)
        and mean >= held.mean_mask_iou,
        cases=len(crops),
        max_logit_difference=largest,
        mean_logit_difference=float(np.mean([one.mean() for one in differences])),
        mean_mask_iou=mean,
        min_mask_iou=min(overlaps),
        # The predictor raises on the first NaN, so that reaching this line means that there was none.
        nan=False,
        provider=predictor.provider,
        window_ms=round(seconds * 1e3, 3),
        peak_memory_mb=peak_memory_mb(),
        bounds=held,
    )


def _overlaps(mine: NDArray[np.integer], theirs: NDArray[np.integer]) -> list[float]:
    """IoU of each class that either of two label maps has."""
    found: list[float] = []
    for number in np.union1d(mine, theirs):
        one, other = mine == number, theirs == number
        found.append(np.count_nonzero(one & other) / np.count_nonzero(one | other))
    return found
