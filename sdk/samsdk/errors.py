"""The errors that the runtime raises.

Every text says what was expected, what came, and what to do about it. All of them derive from `SamsdkError`, so that
one `except` catches whatever this package raises on purpose; each also derives from the built-in exception that a
caller who does not know this package would reach for.
"""


class SamsdkError(Exception):
    """Base of every error that samsdk raises on purpose."""


class ImageError(SamsdkError, ValueError):
    """The image cannot be read or is not something that can be segmented."""


class VolumeError(ImageError):
    """The volume cannot be read or is not something that can be segmented: its voxels, or where they lie."""


class CancelledError(SamsdkError):
    """The caller stopped it."""


class PromptError(SamsdkError, ValueError):
    """A point, box or mask prompt is malformed, lies outside the image, or is of a kind that the bundle lacks."""


class ImageNotSetError(SamsdkError, RuntimeError):
    """`predict` was called before `set_image`; a RuntimeError, as `segment_anything.SamPredictor` raises."""


class BundleError(SamsdkError):
    """A bundle is missing, damaged, of an unknown format, or failed its parity certificate."""


class BackendError(SamsdkError, RuntimeError):
    """An inference backend is not available, or its output cannot be used."""


class MissingExtraError(SamsdkError, ImportError):
    """A feature needs an optional dependency that is not installed; the text holds the install command."""


class DownloadError(SamsdkError, OSError):
    """Weights could not be fetched, or what was fetched is not what was expected."""


class OutputError(SamsdkError, OSError):
    """A result could not be written; nothing half-written is left behind."""
