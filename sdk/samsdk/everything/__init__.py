"""Everything: all objects of an image without a click, for counting and measuring.

Points are laid over the image, each is answered by itself, and of the answers those stay that the model believes in and
that do not say again what a better one said: the way of `segment_anything.SamAutomaticMaskGenerator` (Kirillov et al.,
2023), whose names the settings have. What differs: points go where something stands out, unless a grid is asked for;
each is asked in one tile of a fitting size, where it lies farthest from a cut border, and in a larger one if that shows
nothing whole; and each pixel belongs to one object.
"""

from samsdk.everything.generator import segment_everything
from samsdk.everything.result import EverythingResult, Instance
from samsdk.everything.settings import EverythingSettings

__all__ = ["EverythingResult", "EverythingSettings", "Instance", "segment_everything"]
