"""From the mask of a class to its objects, in two or three dimensions: what the runtime does, for the metrics."""

from samsdk.splitting import split_instances

__all__ = ["split_instances"]
