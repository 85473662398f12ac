"""The handle that an encoded image is: immutable, safe to share between threads, and storable."""

import json
import os
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from samsdk.errors import BundleError
from samsdk.io.atomic import atomic_write
from samsdk.io.dicom import Source
from samsdk.io.dicom_spacing import Spacing, checked_spacing
from samsdk.transforms import Frame

_FORMAT = 2
_TENSOR = "tensor_"
_PROBABILITIES = "point_probabilities"
# RuntimeError is how zipfile says that a damaged header asks for a password or for an unknown compression.
_UNREADABLE = (
    OSError,
    ValueError,
    KeyError,
    IndexError,
    TypeError,
    OverflowError,
    EOFError,
    RuntimeError,
    zipfile.BadZipFile,
    zlib.error,
)


@dataclass(frozen=True, eq=False)
class Embedding:
    """What the encoder made of one image; decode as many prompts from it as you like, from any thread.

    Attributes:
        tensors: name to float32 array, read-only; `image_embeddings` is [1, C, E, E].
        frame: where the image lies in the network's input square.
        bundle: identity of the bundle that made it; only the same bundle decodes it.
        provider: the execution provider that ran the encoder.
        timings: milliseconds of `preprocess` and `encode`.
        on_device: the same tensors in a GPU's memory, where the encoder left them there, for the decoder beside it;
            not saved.
        point_probabilities: [S, S] float32, read-only: where in the network's input square a bundle that prompts itself
            would point; None of other bundles.
        spacing: (x, y) millimetres a pixel of the image as given, None if unknown.
        source: the DICOM object that the image comes from, None if it comes from another file.
    """

    tensors: Mapping[str, NDArray[np.float32]]
    frame: Frame
    bundle: str
    provider: str
    timings: Mapping[str, float] = field(default_factory=dict)
    on_device: Mapping[str, Any] | None = field(default=None, repr=False)
    point_probabilities: NDArray[np.float32] | None = field(default=None, repr=False)
    spacing: Spacing | None = None
    source: Source | None = None

    def __post_init__(self) -> None:
        for tensor in self.tensors.values():
            tensor.setflags(write=False)
        if self.point_probabilities is not None:
            self.point_probabilities.setflags(write=False)
        object.__setattr__(self, "tensors", MappingProxyType(dict(self.tensors)))
        object.__setattr__(self, "timings", MappingProxyType(dict(self.timings)))

    @property
    def image_embeddings(self) -> NDArray[np.float32]:
        """The image's embedding, [1, C, E, E] float32, read-only."""
        return self.tensors["image_embeddings"]

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the embedding to an `.npz` file, under a temporary name first.

        Raises:
            OutputError: the file cannot be written.
        """
        about = {
            "format": _FORMAT,
            "original_size": self.frame.original_size,
            "resized_size": self.frame.resized_size,
            "input_size": self.frame.input_size,
            "window": self.frame.window,
            "bundle": self.bundle,
            "provider": self.provider,
            "spacing": self.spacing,
            "source": asdict(self.source) if self.source else None,
        }
        # Any, because newer stubs of savez tell the arrays from its own keyword, which numpy 2.1 does not have yet.
        arrays: dict[str, Any] = {f"{_TENSOR}{name}": value for name, value in self.tensors.items()}
        if self.point_probabilities is not None:
            arrays[_PROBABILITIES] = self.point_probabilities
        with atomic_write(path) as file:
            np.savez(file, about=np.array(json.dumps(about)), **arrays)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "Embedding":
        """Read an embedding that `save` wrote.

        Raises:
            BundleError: the file is missing or is not an embedding.
        """
        try:
            with Path(path).open("rb") as file:
                # First, because numpy takes anything else for a pickle, and its error says how to load that unsafely.
                if not zipfile.is_zipfile(file):
                    raise ValueError("it is no whole .npz file")
                file.seek(0)
                with np.load(file, allow_pickle=False) as archive:
                    about = json.loads(str(archive["about"]))
                    names = [name for name in archive.files if name.startswith(_TENSOR)]
                    tensors = {name.removeprefix(_TENSOR): archive[name] for name in names}
                    probabilities = archive.get(_PROBABILITIES)
            if about["format"] != _FORMAT:
                raise BundleError(f"{path} is an embedding of format {about['format']}, this samsdk reads {_FORMAT}")
            original, resized = (
                (int(size[0]), int(size[1])) for size in (about["original_size"], about["resized_size"])
            )
            x0, y0, x1, y1 = (int(side) for side in about["window"])
            frame = Frame(original, resized, int(about["input_size"]), (x0, y0, x1, y1))
            if "image_embeddings" not in tensors:
                raise KeyError("image_embeddings")
            if probabilities is not None and probabilities.shape != (frame.input_size, frame.input_size):
                raise ValueError(f"{_PROBABILITIES} has shape {list(probabilities.shape)}")
            # Nothing is preprocessed or encoded now; the keys stay, because `Result.timings` promises them.
            timings = {"preprocess": 0.0, "encode": 0.0}
            bundle, provider = str(about["bundle"]), str(about["provider"])
            spacing, source = _scan_of(about)
            return cls(tensors, frame, bundle, provider, timings, None, probabilities, spacing, source)
        except _UNREADABLE as error:
            raise BundleError(
                f"{os.fspath(path)} is not an embedding that samsdk saved: {error}; encode the image again"
            ) from error


def _scan_of(about: Mapping[str, Any]) -> tuple[Spacing | None, Source | None]:
    """What a saved embedding says about its scan; older files say nothing."""
    spacing, source = about.get("spacing"), about.get("source")
    if spacing is not None and (len(spacing) != 2 or checked_spacing(*spacing) is None):
        raise ValueError(f"its spacing is {spacing}")
    return (spacing[0], spacing[1]) if spacing else None, Source(**source) if source else None
