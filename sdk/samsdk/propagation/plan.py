"""What following an object takes, known before it starts."""

import math
from dataclasses import dataclass
from typing import Final

from samsdk.environment import peak_memory_mb
from samsdk.manifest import Manifest
from samsdk.propagation.planes import Planes

_FLOAT: Final = 4
# Bytes a pixel of the plane that is looked at: its numbers, image, logits, masks, parts, and brightness sorted twice.
_PLANE: Final = 64
# Embeddings beside those that are kept: the one that is decoded, the one that is made, the one that makes others go.
_BESIDE: Final = 3
# A plane may be encoded for a window that its box turns out not to fit, and the first one is looked at more than once.
_WINDOWS: Final = 2
_FIRST: Final = 4


@dataclass(frozen=True)
class PropagationPlan:
    """What one call of `Session.prompt` or `Session.correct` takes at most.

    Attributes:
        slices: that are looked at.
        peak_bytes: most memory that it takes at any time, beside the volume as given and the engine.
        process_bytes: of the whole process: `peak_bytes` and the most resident memory that this process has had so far,
            which holds the volume, and the engine once it has run (`Predictor.warm_up`); None where the system does not
            tell.
    """

    slices: int
    peak_bytes: int
    process_bytes: int | None

    @classmethod
    def of(cls, manifest: Manifest, planes: Planes, slices: int, kept_bytes: int) -> "PropagationPlan":
        """Plan a call.

        Args:
            manifest: of the bundle for images.
            planes: of the volume.
            slices: that may be looked at.
            kept_bytes: of the embeddings that are kept, at most.
        """
        embedding = _FLOAT * sum(math.prod(shape) for shape in manifest.embedding.values())
        if manifest.auto is not None:
            embedding += _FLOAT * manifest.preprocessing.input_size**2
        height, width = planes.size
        kept = min(kept_bytes, embedding * (_WINDOWS * slices + _FIRST))
        # A byte a voxel each: the label map, the masks that are found, and those found before.
        masks = height * width * (len(planes) + 2 * slices)
        peak = kept + _BESIDE * embedding + masks + _PLANE * height * width
        resident = peak_memory_mb()
        return cls(slices, peak, None if resident is None else int(resident * 1e6) + peak)
