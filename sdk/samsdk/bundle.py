"""Bundles on disk: a folder, or the same files in one uncompressed zip `*.samsdk`. Every byte in use is checked."""

import hashlib
import io
import os
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import numpy as np
from numpy.lib.npyio import NpzFile

from samsdk.errors import BundleError
from samsdk.manifest import Manifest
from samsdk.manifest_reader import is_safe_name, read_manifest

MANIFEST: Final = "manifest.json"
GOLDEN: Final = "golden.npz"
# A manifest is a few kB; a gigabyte of it is an attack or an accident.
_MANIFEST_LIMIT: Final = 2**24
# What zipfile raises on damaged files: beside its own class, RuntimeError for members marked as encrypted,
# NotImplementedError (one of those) for unknown features, EOFError for sizes that are not there, ValueError for names.
_ZIP_ERRORS: Final = (OSError, zipfile.BadZipFile, RuntimeError, EOFError, ValueError)


class Bundle:
    """A bundle that was opened, whose files were all compared with the manifest's sha256 sums.

    Attributes:
        path: the folder or `*.samsdk` file.
        manifest: its manifest.
    """

    def __init__(self, path: Path, manifest: Manifest) -> None:
        self.path = path
        self.manifest = manifest

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> "Bundle":
        """Open a bundle and check it whole.

        Raises:
            BundleError: there is none, a file is missing or changed, the format is unknown, or a zip member's name
                leads out of the bundle.
        """
        location = Path(path)
        if not location.exists():
            raise BundleError(f"no bundle at {location}")
        if location.is_file():
            _check_zip(location)
        bundle = cls(location, read_manifest(_read(location, MANIFEST, _MANIFEST_LIMIT)))
        for name in bundle.manifest.files:
            bundle.read(name)
        return bundle

    def read(self, name: str) -> bytes:
        """The content of one file that the manifest lists, checked against its sha256.

        Raises:
            BundleError: the manifest does not list it, or it is missing or changed.
        """
        entry = self.manifest.files.get(name)
        if entry is None:
            raise BundleError(f"{self.path} lists no file {name}; it lists: {', '.join(self.manifest.files)}")
        content = _read(self.path, name)
        digest = hashlib.sha256(content).hexdigest()
        if digest != entry["sha256"]:
            raise BundleError(
                f"{name} in {self.path} was changed: expected sha256 {entry['sha256']}, got {digest}; "
                "export the bundle or copy it to this machine again"
            )
        return content

    def read_manifest_text(self) -> bytes:
        """`manifest.json` as it is on disk."""
        return _read(self.path, MANIFEST, _MANIFEST_LIMIT)

    @property
    def identity(self) -> str:
        """Name and a hash over all files: two bundles of one identity give the same masks and scores."""
        sums = sorted(f"{name}:{entry['sha256']}" for name, entry in self.manifest.files.items())
        return f"{self.manifest.name}@{hashlib.sha256(chr(10).join(sums).encode()).hexdigest()[:16]}"


def stamp(path: Path) -> tuple[str, int]:
    """What changes when a bundle is replaced: its place, and when its manifest or zip was written."""
    file = path / MANIFEST if path.is_dir() else path
    return str(path.resolve()), file.stat().st_mtime_ns if file.exists() else 0


def _check_zip(path: Path) -> None:
    if not zipfile.is_zipfile(path):
        raise BundleError(f"{path} is neither a folder nor a zip file (*.samsdk)")
    try:
        with zipfile.ZipFile(path) as archive:
            # `orig_filename`, because on Windows zipfile itself turns a backslash into a slash.
            names = [info.orig_filename for info in archive.infolist()]
    except _ZIP_ERRORS as error:
        raise BundleError(f"{path} is a damaged zip file: {error}; copy it to this machine again") from error
    bad = [name for name in names if not is_safe_name(name.removesuffix("/"))]
    if bad:
        raise BundleError(f"{path} holds names that lead out of the bundle and is refused: {', '.join(bad)}")


def _read(path: Path, name: str, limit: int | None = None) -> bytes:
    try:
        if path.is_dir():
            file = path / name
            if limit is not None and file.stat().st_size > limit:
                raise BundleError(f"{name} in {path} is larger than {limit} bytes")
            return file.read_bytes()
        with zipfile.ZipFile(path) as archive:
            info = archive.getinfo(name)
            # Graphs do not compress; a stored size that differs is a zip bomb or a file from another tool.
            if info.compress_type != zipfile.ZIP_STORED:
                raise BundleError(f"{name} in {path} is compressed; bundles are stored uncompressed")
            if limit is not None and info.file_size > limit:
                raise BundleError(f"{name} in {path} is larger than {limit} bytes")
            return archive.read(info)
    except (KeyError, FileNotFoundError) as error:
        what = (
            "is not a bundle: it has no manifest.json"
            if name == MANIFEST
            else f"lacks {name}, which its manifest lists"
        )
        raise BundleError(f"{path} {what}; export the bundle or copy it to this machine again") from error
    except _ZIP_ERRORS as error:
        raise BundleError(f"{name} in {path} cannot be read: {error}; copy it to this machine again") from error


@contextmanager
def open_arrays(bundle: Bundle, name: str) -> Iterator[NpzFile]:
    """Open one of a bundle's files of arrays for a `with` block.

    Args:
        bundle: that has it.
        name: of the `.npz` file.

    Yields:
        Its arrays by their names; no pickled objects are read.

    Raises:
        BundleError: the file is missing or damaged, or lacks what the block looks for.
    """
    try:
        with np.load(io.BytesIO(bundle.read(name)), allow_pickle=False) as archive:
            yield archive
    except (KeyError, ValueError, TypeError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise BundleError(f"{name} in {bundle.path} cannot be read: {error}") from error
