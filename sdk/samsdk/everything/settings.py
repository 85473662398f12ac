"""How everything in an image is segmented."""

from dataclasses import asdict, dataclass
from typing import Any, Final

_SHARES: Final = (
    "contrast",
    "pred_iou_thresh",
    "stability_score_thresh",
    "box_nms_thresh",
    "overlap_thresh",
    "largest",
)


@dataclass(frozen=True)
class EverythingSettings:
    """Names that `segment_anything.SamAutomaticMaskGenerator` has too mean the same; defaults are the default model's.

    They were chosen on nuclei of the images that taught the default model. Its logits are softer than those of SAM,
    whose `stability_score_thresh` is 0.95: here a mask is unstable far below that.

    Attributes:
        points_per_side: of a regular grid over the whole image; each layer of closer tiles has twice as many. None
            takes points where something bright or dark stands out instead (`samsdk.everything.points`), each in the
            layer whose tiles show that neither as a speck nor too large, and where nothing whole is found, in larger
            tiles.
        contrast: how much a spot must stand out to get a point, as a share of the image's range of brightness.
        pred_iou_thresh: least IoU that the model predicts for its mask.
        stability_score_thresh: least IoU of the masks at thresholds higher and lower by `stability_score_offset`.
        stability_score_offset: in logits.
        box_nms_thresh: of two masks of one tile whose boxes have a larger IoU than this, the better one stays.
        overlap_thresh: a mask is left out if a larger share of it, or of what is left of a better one, belongs to both.
        crop_n_layers: layers of closer tiles, each of half the last one's side, after the whole image; None for as many
            as still add detail. 0 looks at the whole image alone.
        min_mask_region_area: parts and holes of a mask with fewer pixels are removed, and objects that are smaller.
        largest: share of a tile that an object covers at most; more is ground.
        multimask: take all masks for ambiguous prompts instead of the single one, as SAM's generator does.

    Raises:
        ValueError: with all that is wrong.
    """

    points_per_side: int | None = None
    contrast: float = 0.15
    pred_iou_thresh: float = 0.4
    stability_score_thresh: float = 0.3
    stability_score_offset: float = 1.0
    box_nms_thresh: float = 0.7
    overlap_thresh: float = 0.5
    crop_n_layers: int | None = None
    min_mask_region_area: int = 16
    largest: float = 0.5
    multimask: bool = False

    def __post_init__(self) -> None:
        problems = [
            f"{name} must be within 0 to 1, got {getattr(self, name)}"
            for name in _SHARES
            if not 0 <= getattr(self, name) <= 1
        ]
        if self.points_per_side is not None and self.points_per_side < 1:
            problems.append(f"points_per_side must be at least 1, got {self.points_per_side}")
        if self.crop_n_layers is not None and self.crop_n_layers < 0:
            problems.append(f"crop_n_layers must be at least 0, got {self.crop_n_layers}")
        if not self.stability_score_offset >= 0:
            problems.append(f"stability_score_offset must be at least 0, got {self.stability_score_offset}")
        if self.min_mask_region_area < 0:
            problems.append(f"min_mask_region_area must be at least 0, got {self.min_mask_region_area}")
        if problems:
            raise ValueError("the settings are not valid: " + "; ".join(problems))

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON types."""
        return asdict(self)
