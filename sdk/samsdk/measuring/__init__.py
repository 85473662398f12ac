"""Measuring masks: dimensions in pixels and millimetres, the sizes of many objects, and how certain they are.

    measurement = measure(result.region, spacing=(0.2, 0.2))
    measurement.mm.ellipse.circumference

`measurement` says what is measured, `shapes` and `ellipse` how; `sizes` is of label maps, `stability` of masks from
moved prompts (`perturbation`), and `calibration` of the model's own score. What lies in volumes, in millilitres, is
`VolumeResult.volumes_ml`.
"""

from samsdk.measuring.calibration import Calibration
from samsdk.measuring.ellipse import Ellipse
from samsdk.measuring.measurement import Dimensions, Measurement, measure
from samsdk.measuring.shapes import Diameter
from samsdk.measuring.sizes import ObjectSizes, object_sizes
from samsdk.measuring.stability import Stability

__all__ = [
    "Calibration",
    "Diameter",
    "Dimensions",
    "Ellipse",
    "Measurement",
    "ObjectSizes",
    "Stability",
    "measure",
    "object_sizes",
]
