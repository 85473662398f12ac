"""How far a predictor's answers are from the original model's: the golden self-test of whatever bundle it has."""

from samsdk.golden import Bounds, Parity, measure_parity
from samsdk.predictor import Predictor
from samsdk.volumes.golden import VolumeParity, measure_crops
from samsdk.volumes.predictor import VolumePredictor


def measure_bundle(predictor: Predictor, bounds: Bounds | None = None) -> Parity | VolumeParity:
    """Replay what the bundle carries; arguments and errors as `samsdk.golden.measure_parity`."""
    if isinstance(predictor, VolumePredictor):
        return measure_crops(predictor, bounds)
    return measure_parity(predictor, bounds)
