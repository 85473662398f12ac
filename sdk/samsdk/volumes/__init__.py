"""Volumes: three axes in, a label map on the same grid out."""

from samsdk.errors import VolumeError
from samsdk.volumes.result import VolumeResult
from samsdk.volumes.volume import Volume

__all__ = ["Volume", "VolumeError", "VolumeResult"]
