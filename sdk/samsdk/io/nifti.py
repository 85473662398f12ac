"""NIfTI files, through nibabel (extra `medical`)."""

import gzip
import os

import numpy as np
from numpy.typing import NDArray

from samsdk.errors import MissingExtraError
from samsdk.io.atomic import atomic_write


def write_mask(path: str | os.PathLike[str], mask: NDArray[np.bool_]) -> None:
    """Write a 2-D mask as a one-slice volume.

    Args:
        path: ends in `.nii.gz`.
        mask: [H, W] bool.

    Raises:
        MissingExtraError: nibabel is not installed.
        OutputError: the file cannot be written.
    """
    try:
        import nibabel
    except ImportError as error:
        raise MissingExtraError("writing NIfTI needs nibabel: pip install 'samsdk[medical]'") from error
    # NIfTI's first axis is x; a plain image has no position in a scanner, so the affine is the identity.
    volume = nibabel.Nifti1Image(mask.T[:, :, None].astype(np.uint8), np.eye(4))
    with atomic_write(path) as file:
        file.write(gzip.compress(volume.to_bytes(), mtime=0))
