"""The configuration of AutoProSAM: a 2-D ViT and how it is turned to volumes."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from samsdk_training.models.config import from_json, to_json
from samsdk_training.models.vit import PATCH, VitConfig

ARCHITECTURE = "auto_pro_sam"
# Maps that the encoder gives, and the decoder takes.
STAGES = 4
# Where the auto-prompt generator stands: on the deepest map, as paper and figure have it, or on the shallowest, which
# is what the released code does.
_GENERATOR_STAGES = (STAGES, 1)


@dataclass(frozen=True)
class AutoProSamConfig:
    """Shape of an AutoProSAM; the defaults are the published ones for ViT-B and 16 classes.

    Attributes:
        crop: (D, H, W) of the input in voxels.
        classes: what it tells apart, the background included.
        upsampling: the crop is enlarged so many times for the ViT, whose patches then are 16 / upsampling voxels wide
            along each axis.
        vit: shape of the 2-D encoder as it was trained; its own image size, windows and global blocks only say how
            long its tables of positions are.
        window: side of the cubic windows in tokens; shifted by half of it in every other block, from the first on.
        generator_widths: channels of the auto-prompt generator's levels, from the map's own resolution downwards.
        apg_stage: the map that the generator takes and gives back, 4 (the deepest) or 1.
        decoder_width: channels of the decoder.

    Raises:
        ValueError: The numbers do not fit together.
    """

    crop: tuple[int, ...] = (128, 128, 128)
    classes: int = 16
    upsampling: int = 4
    vit: VitConfig = field(default_factory=VitConfig)
    window: int = 8
    generator_widths: tuple[int, ...] = (16, 32, 64, 128, 160)
    apg_stage: int = STAGES
    decoder_width: int = 128

    def __post_init__(self) -> None:
        problems = [text for wrong, text in self._checks() if wrong]
        if problems:
            raise ValueError("\n  ".join(["the shape of an AutoProSAM is not valid:", *problems]))

    def _checks(self) -> list[tuple[bool, str]]:
        step = PATCH * self.window
        enlarged = [side * self.upsampling for side in self.crop]
        fits = len(enlarged) == 3 and not any(side % step for side in enlarged)
        deepest = [side >> (len(self.generator_widths) - 1) for side in self.grid] if fits else [2]
        return [
            (
                not fits,
                f"crop: expected three sides that, times {self.upsampling}, are multiples of {step}, {PATCH} "
                f"pixels a patch by {self.window} patches a window, got {list(self.crop)}",
            ),
            # Instance norm has no variance to divide by where a map is one voxel.
            (
                math.prod(deepest) < 2,
                f"generator_widths: {len(self.generator_widths)} levels are too many for a grid "
                f"of {self.grid if fits else ''} tokens, whose deepest would be {deepest}",
            ),
            (not self.generator_widths, "generator_widths: expected one or more"),
            (self.window % 2 != 0, f"window: expected an even side, which is shifted by its half, got {self.window}"),
            (self.classes < 2, f"classes: expected at least 2, the background being one, got {self.classes}"),
            (self.apg_stage not in _GENERATOR_STAGES, f"apg_stage: expected 4 or 1, got {self.apg_stage}"),
            (self.vit.depth % STAGES != 0, f"vit: expected a depth in {STAGES} equal stages, got {self.vit.depth}"),
            (self.vit.adapters != "none", f"vit: expected no 2-D adapters, got {self.vit.adapters!r}"),
        ]

    @property
    def grid(self) -> tuple[int, int, int]:
        """How many tokens there are along H, W and D, in the encoder's order."""
        depth, height, width = (side * self.upsampling // PATCH for side in self.crop)
        return height, width, depth

    def to_dict(self) -> dict[str, Any]:
        """Return the configuration as JSON types."""
        return {"architecture": ARCHITECTURE, **to_json(self)}

    @classmethod
    def from_dict(cls, config: Mapping[str, Any]) -> "AutoProSamConfig":
        """Rebuild a configuration from what `to_dict` returned.

        Raises:
            ValueError: A field is missing or unknown, or a value does not fit.
        """
        return from_json(cls, "model", {key: value for key, value in config.items() if key != "architecture"})
