"""From a bundle to the predictor of its task."""

from samsdk.bundle import Bundle
from samsdk.manifest import VOLUME
from samsdk.predictor import Predictor
from samsdk.volumes.predictor import VolumePredictor


def predictor_for(bundle: Bundle) -> type[Predictor]:
    """The class that runs a bundle: a `VolumePredictor` where it takes volumes."""
    return VolumePredictor if bundle.manifest.task == VOLUME else Predictor
