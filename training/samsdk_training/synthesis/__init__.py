"""Exemplar-guided synthesis: labelled images from a few annotated ones (Cheap Lunch). Needs numpy and cv2 alone."""

from samsdk_training.synthesis.config import LESIONS, ORGANS, PARTS, PRESETS, IntensityChange, SynthesisConfig
from samsdk_training.synthesis.exemplars import SliceSummary, choose_exemplars, summarise_slice
from samsdk_training.synthesis.synthesiser import Synthesiser, SyntheticImage

__all__ = [
    "LESIONS",
    "ORGANS",
    "PARTS",
    "PRESETS",
    "IntensityChange",
    "SliceSummary",
    "SynthesisConfig",
    "Synthesiser",
    "SyntheticImage",
    "choose_exemplars",
    "summarise_slice",
]
