"""Promptable medical segmentation on edge devices: encode an image once, decode each prompt in milliseconds.

import samsdk
result = samsdk.segment("scan.png", box=(40, 60, 210, 190))
result.mask            # (H, W) bool, the size of the image that was given
result.save("mask.png")
"""

import os
import threading
from importlib.metadata import version
from pathlib import Path
from typing import Final

from numpy.typing import ArrayLike

from samsdk import hub
from samsdk.auto import AutoResult
from samsdk.backends.onnxruntime import Providers
from samsdk.backends.options import BackendOptions
from samsdk.bundle import Bundle, stamp
from samsdk.embedding import Embedding
from samsdk.errors import (
    BackendError,
    BundleError,
    CancelledError,
    DownloadError,
    ImageError,
    ImageNotSetError,
    MissingExtraError,
    OutputError,
    PromptError,
    SamsdkError,
    VolumeError,
)
from samsdk.io.nifti import read_nifti
from samsdk.io.scans import Scan, Source, read_scan
from samsdk.opening import predictor_for
from samsdk.predictor import Predictor
from samsdk.prompts import Prompt
from samsdk.results import Result
from samsdk.semantic import SemanticResult
from samsdk.splitting import Splitting
from samsdk.volumes import Volume, VolumeResult
from samsdk.volumes.predictor import VolumePredictor

__all__ = [
    "AutoResult",
    "BackendError",
    "Bundle",
    "BundleError",
    "CancelledError",
    "DownloadError",
    "Embedding",
    "ImageError",
    "ImageNotSetError",
    "MissingExtraError",
    "OutputError",
    "Predictor",
    "Prompt",
    "PromptError",
    "Result",
    "SamsdkError",
    "Scan",
    "SemanticResult",
    "Source",
    "Splitting",
    "Volume",
    "VolumeError",
    "VolumePredictor",
    "VolumeResult",
    "load",
    "read_nifti",
    "read_scan",
    "segment",
]
__version__: Final = version("samsdk")

# The one piece of global state: predictors that `segment` loaded, so that its second call loads nothing.
_predictors: dict[tuple[str, str], tuple[int, Predictor]] = {}
_lock = threading.Lock()


def load(
    model: str | os.PathLike[str] | None = None,
    *,
    device: str | Providers = "auto",
    threads: int | None = None,
    tier: str | None = None,
    gpu_memory_mb: int | None = None,
    cache: bool = True,
    uncertified: str | None = None,
) -> Predictor:
    """Load a bundle.

    Args:
        model: a bundle's folder or `*.samsdk` file, the name of a model whose bundle is in the cache, or None for the
            default one.
        device: `auto` (the fastest that is there and certified), `cpu`, `cuda`, `openvino`, `tensorrt`, or a list of
            ONNX Runtime providers.
        threads: threads of one call on the CPU; None leaves it to the engine.
        tier: `exact` (float32), `balanced` or `fast`, as far as the bundle has them; None is `exact`.
        gpu_memory_mb: most memory, in 1e6 bytes, that ONNX Runtime may take on a GPU; None sets no limit.
        cache: let engines that can (OpenVINO) keep their compiled graphs in samsdk's cache folder, so that the next
            process starts faster.
        uncertified: name of a backend, e.g. `onnxruntime-cuda`, that may run although nothing proves that it computes
            there what was validated; None refuses every such backend.

    Returns:
        The bundle, ready to run; of a volume bundle a `VolumePredictor`.

    Raises:
        BundleError: no such bundle, or it is damaged, unknown or not certified.
        BackendError: the device was asked for by name and is not there.
        MissingExtraError: the device needs an extra that is not installed.
    """
    options = BackendOptions(threads, gpu_memory_mb, _compiled_folder() if cache else None)
    bundle = Bundle.open(hub.resolve_bundle(model))
    return predictor_for(bundle)(bundle, device=device, tier=tier, options=options, uncertified=uncertified)


def _compiled_folder() -> Path | None:
    try:
        return hub.cache_dir() / "compiled"
    except DownloadError:
        # A user without a home folder: a bundle that is given by its path runs all the same.
        return None


def segment(
    image: object,
    *,
    points: ArrayLike | None = None,
    labels: ArrayLike | None = None,
    box: ArrayLike | None = None,
    mask: ArrayLike | Result | None = None,
    points_mm: ArrayLike | None = None,
    box_mm: ArrayLike | None = None,
    zoom: bool | None = None,
    variations: int = 0,
    model: str | os.PathLike[str] | None = None,
    device: str | Providers = "auto",
    tier: str | None = None,
) -> Result:
    """Segment what a prompt points at, in one call; a semantic or auto bundle finds what it knows without any.

    The predictor and the embeddings of the last images are kept: a second prompt on the same image costs one decode.

    Args:
        image: a path, the bytes of an image file, an array HxW, HxWx3 (RGB) or HxWx4 (RGBA; alpha is dropped) of uint8,
            uint16, other integers, bool or floats, a PIL image, or a `Scan`. DICOM needs the extra `medical`; of a
            file of several frames one is taken by `read_scan`.
        points: [K, 2], (x, y) in pixels of the image as given.
        labels: [K], 1 for the object and 0 for what is not; all 1 when left out.
        box: (x0, y0, x1, y1) in pixels of the image as given, x1 and y1 exclusive.
        mask: a former result of the same image, which is then corrected, or [H, W] bool or integers.
        points_mm: instead of `points`, in millimetres from the image's upper left corner, where the file or the `Scan`
            says how large a pixel is; see `samsdk.millimetres`.
        box_mm: likewise instead of `box`.
        zoom: look a second time, at a window around the object; see `Predictor.segment`. None does what the bundle
            recommends.
        variations: how many prompts that are moved a little are answered, too, for the ranges of `Result.measure`.
        model: a bundle's folder or `*.samsdk` file, the name of a model whose bundle is in the cache, or None for the
            default one.
        device: see `load`.
        tier: see `load`.

    Returns:
        The mask, the size of the image as given, with its score and where it came from; of a semantic bundle a
        `SemanticResult`, with the class of each pixel; of one that prompts itself an `AutoResult`, with its points; of
        a volume bundle, which takes a `Volume` or the path of a NIfTI file, a `VolumeResult`.

    Raises:
        ImageError, PromptError, BundleError, BackendError, MissingExtraError: each says what was expected, what came,
            and what to do.
    """
    path = hub.resolve_bundle(model)
    place, written = stamp(path)
    key = (place, repr((device, tier)))
    with _lock:
        if key not in _predictors or _predictors[key][0] != written:
            _predictors[key] = (written, load(path, device=device, tier=tier))
        predictor = _predictors[key][1]
    return predictor.segment(
        image,
        points=points,
        labels=labels,
        box=box,
        mask=mask,
        points_mm=points_mm,
        box_mm=box_mm,
        zoom=zoom,
        variations=variations,
    )
