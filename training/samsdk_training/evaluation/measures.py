"""What is measured of a mask against its reference: Dice and IoU always, distances between surfaces on demand."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from samsdk.errors import MissingExtraError
from samsdk.splitting import Splitting, split_instances
from samsdk_training.data import LabelledImage
from samsdk_training.metrics.empty import UNDEFINED, EmptyPolicy
from samsdk_training.metrics.overlap import dice, iou
from samsdk_training.set_folder import DataError

if TYPE_CHECKING:
    from samsdk_training.metrics.surface import Convention

DICE: Final = "dice"
IOU: Final = "iou"
NSD: Final = "nsd"
HD95: Final = "hd95"
# Of sets that hold instances; F1 and panoptic quality at an IoU above 0.5.
INSTANCES: Final = ("aji", "aji_plus", "object_f1", "panoptic_quality")


@dataclass(frozen=True)
class Measures:
    """What is measured of a mask beside Dice and IoU, and by which rules.

    Attributes:
        nsd: tolerance of the normalised surface Dice, in mm; None leaves it out.
        hd95: convention of the 95 % Hausdorff distance (see `metrics.surface`), in mm; None leaves it out.
        spacing: mm of a pixel, in place of what the data say: (down, across), or for volumes (between planes, down,
            across).
        empty: what a measure is worth where a mask is empty.
        transunet: Dice and HD95 of whole volumes by the rules of TransUNet's tables (see `metrics.protocols`), and
            nothing else; for comparison with those tables alone.
    """

    nsd: float | None = None
    hd95: "Convention | None" = None
    spacing: tuple[float, ...] | None = None
    empty: EmptyPolicy = UNDEFINED
    transunet: bool = False

    def size(self, image: LabelledImage, axes: int) -> tuple[float, ...] | None:
        """How large a pixel is along each axis, in mm; None where no distance is measured in mm.

        Args:
            image: the image, or a slice of the volume.
            axes: 2 of an image, 3 of a volume.

        Raises:
            DataError: a distance is measured, and nothing says how large a pixel is.
        """
        if self.nsd is None and self.hd95 is None:
            return None
        stored = image.spacing or ()
        sizes = self.spacing or (stored if image.depth is None else (image.depth, *stored))
        if len(sizes) < axes or not all(np.isfinite(size) and size > 0 for size in sizes):
            wanted = "(down, across)" if axes == 2 else "(between planes, down, across)"
            raise DataError(
                f"{image.name}: NSD and HD95 need the size of a pixel in mm, {wanted}, known are "
                f"{', '.join(f'{size:g}' for size in sizes) or 'none'}; give it as --spacing"
            )
        return tuple(sizes[-axes:])

    def score(
        self, prediction: NDArray[np.bool_], truth: NDArray[np.bool_], size: tuple[float, ...] | None
    ) -> dict[str, float]:
        """Measure a mask.

        Args:
            prediction: [H, W] or [D, H, W] bool.
            truth: of the same shape.
            size: as `size` says.

        Returns:
            Each measure by its name, NaN where it is undefined.

        Raises:
            MissingExtraError: distances need the extra `train`, which is not installed.
        """
        if self.transunet:
            return _transunet(prediction, truth)
        found = {DICE: dice(prediction, truth, empty=self.empty), IOU: iou(prediction, truth, empty=self.empty)}
        if size is None:
            return found
        try:
            from samsdk_training.metrics import surface
        except ImportError as error:
            raise _missing(error) from error
        if self.nsd is not None:
            found[NSD] = surface.nsd(prediction, truth, tolerance=self.nsd, spacing=size, empty=self.empty)
        if self.hd95 is not None:
            found[HD95] = surface.hd95(prediction, truth, convention=self.hd95, spacing=size, empty=self.empty)
        return found


def score_instances(
    mask: NDArray[np.bool_], truth: NDArray[np.integer], splitting: Splitting, empty: EmptyPolicy
) -> dict[str, float]:
    """Split a mask into instances and measure how well they were found and told apart.

    Args:
        mask: [H, W] or [D, H, W] bool.
        truth: of the same shape, each number one object, 0 is background.
        splitting: how the mask is split.
        empty: what a measure is worth where there is no object.

    Returns:
        Each of `INSTANCES`, NaN where it is undefined.

    Raises:
        MissingExtraError: scipy is not installed.
    """
    try:
        from samsdk_training.metrics.instances import aggregated_jaccard, aggregated_jaccard_plus, match_objects
    except ImportError as error:
        raise _missing(error) from error
    found = split_instances(mask, smallest=splitting.smallest, depth=splitting.depth)
    match = match_objects(found, truth)
    values = (
        aggregated_jaccard(found, truth, empty=empty),
        aggregated_jaccard_plus(found, truth, empty=empty),
        match.f1(empty),
        match.panoptic_quality(empty),
    )
    return dict(zip(INSTANCES, values, strict=True))


def _transunet(prediction: NDArray[np.bool_], truth: NDArray[np.bool_]) -> dict[str, float]:
    try:
        from samsdk_training.metrics.protocols import class_scores
    except ImportError as error:
        raise _missing(error) from error
    scores = class_scores(prediction.view(np.uint8), truth.view(np.uint8), [1], protocol="transunet")[1]
    return {DICE: scores.dice, HD95: scores.hd95}


def _missing(error: ImportError) -> MissingExtraError:
    return MissingExtraError(f"this measure needs {error.name}: pip install 'samsdk[train]'")
