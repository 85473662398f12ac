"""How a batch is gone through in SAM-Med2D's nine steps, and how the answers are scored; see `nine_steps`."""

from dataclasses import asdict, dataclass, fields
from typing import Any, Final, Literal

from samsdk_training.models.config import expect_fields

_WEIGHTS: Final = ("focal", "dice", "iou")


@dataclass(frozen=True)
class NineStepConfig:
    """How a batch is gone through, and how answers are scored.

    Attributes:
        later_steps: steps after the first; the published number makes nine of them.
        box: probability that a batch begins with boxes; else with points.
        box_jitter: standard deviation of a box's shift, as a share of its shorter side; 0 leaves it where it is.
        largest_shift: pixels of the input that a box is shifted by at most, along each axis.
        point_counts: how many points a correction may have; a step draws one of them for all its objects.
        focal: weight of the focal loss.
        dice: weight of the Dice loss.
        iou: weight of the squared error of the predicted IoU.
        dice_reduction: `sample` averages the Dice losses of the objects; `batch` takes all objects as one large mask,
            as published, where a small one hardly counts.
        iou_loss: `per_sample` teaches each object's own IoU, and the prediction alone learns from it; `batch_scalar`
            teaches one IoU of the whole batch, as published, and the mask gets a gradient too.

    Raises:
        ValueError: a value is not of its kind or range; the text lists every problem.
    """

    later_steps: int = 8
    box: float = 0.5
    box_jitter: float = 0.1
    largest_shift: int = 5
    point_counts: tuple[int, ...] = (1, 3, 5, 9)
    focal: float = 20.0
    dice: float = 1.0
    iou: float = 1.0
    dice_reduction: Literal["sample", "batch"] = "sample"
    iou_loss: Literal["per_sample", "batch_scalar"] = "per_sample"

    def __post_init__(self) -> None:
        counts: Any = self.point_counts
        checks = {
            # With fewer, there would be no step between the first correction and the last for the mask alone.
            "later_steps": (_is_whole(self.later_steps, 3), "a whole number of at least 3"),
            "box": (_is_real(self.box) and self.box <= 1, "a number from 0 to 1"),
            "box_jitter": (_is_real(self.box_jitter), "a number from 0 on"),
            "largest_shift": (_is_whole(self.largest_shift, 0), "a whole number from 0 on"),
            "point_counts": (
                isinstance(counts, tuple) and bool(counts) and all(_is_whole(one, 1) for one in counts),
                "whole numbers of at least 1, and at least one",
            ),
            "dice_reduction": (self.dice_reduction in ("sample", "batch"), "'sample' or 'batch'"),
            "iou_loss": (self.iou_loss in ("per_sample", "batch_scalar"), "'per_sample' or 'batch_scalar'"),
            **{name: (_is_real(getattr(self, name)), "a number from 0 on") for name in _WEIGHTS},
        }
        problems = [
            f"{name}: expected {wanted}, got {getattr(self, name)!r}"
            for name, (fits, wanted) in checks.items()
            if not fits
        ]
        if problems:
            raise ValueError("\n  ".join(["the nine steps' configuration is not valid:", *problems]))

    @property
    def steps(self) -> int:
        """Optimiser steps for each batch."""
        return 1 + self.later_steps

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON types."""
        return {**asdict(self), "point_counts": list(self.point_counts)}

    @classmethod
    def from_dict(cls, content: object) -> "NineStepConfig":
        """Build what `to_dict` gave; fields that are left out keep their defaults.

        Raises:
            ValueError: a field is unknown or not valid.
        """
        names = {one.name for one in fields(cls)}
        given = dict(expect_fields("interaction", content, names, names))
        if isinstance(given.get("point_counts"), list):
            given["point_counts"] = tuple(given["point_counts"])
        return cls(**given)


def _is_whole(value: Any, least: int) -> bool:
    return type(value) is int and value >= least


def _is_real(value: Any) -> bool:
    return type(value) in (int, float) and 0 <= value < float("inf")
