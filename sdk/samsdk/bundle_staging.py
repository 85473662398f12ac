"""Writing bundles: everything into a staging folder, then renamed into place, so that none is ever half there."""

import json
import os
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from samsdk.bundle import MANIFEST, Bundle
from samsdk.errors import OutputError
from samsdk.hub import BUNDLE_SUFFIX
from samsdk.io.atomic import atomic_folder, atomic_write


@contextmanager
def staged_bundle(destination: str | os.PathLike[str]) -> Iterator[Path]:
    """Fill a folder that becomes a bundle when the block ends without an exception.

    Args:
        destination: a folder, or a file that ends in `.samsdk`. A bundle that is there already is replaced at the very
            end; anything else that is there is left alone.

    Yields:
        An empty folder for the bundle's files.

    Raises:
        OutputError: the destination cannot be written, or is something else than a bundle.
    """
    # Resolved, because "." has no name to rename to, and a link would be renamed instead of what it points at.
    target = Path(destination).resolve()
    _refuse_other_things(target)
    if target.suffix != BUNDLE_SUFFIX:
        with atomic_folder(target) as staging:
            yield staging
        return
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"cannot write a bundle to {target}: {error}") from error
    # A folder first, then packed: what a parity check has read are the very files that go into the zip.
    with atomic_write(target) as packed, tempfile.TemporaryDirectory() as folder:
        yield Path(folder)
        with zipfile.ZipFile(packed, "w", zipfile.ZIP_STORED) as archive:
            for file in sorted(path for path in Path(folder).rglob("*") if path.is_file()):
                # A fixed date and mode, so that the same files give the same zip.
                member = zipfile.ZipInfo(file.relative_to(folder).as_posix())
                member.external_attr = 0o644 << 16
                archive.writestr(member, file.read_bytes())


def write_manifest(path: Path, manifest: Mapping[str, Any]) -> None:
    """Write `manifest.json`, whole or not at all."""
    with atomic_write(path) as file:
        file.write((json.dumps(manifest, indent=1) + "\n").encode())


def write_changed(bundle: Bundle, destination: str | os.PathLike[str], manifest: Mapping[str, Any]) -> Path:
    """Write a bundle with another manifest; its files stay what they are, and so its certificates hold.

    Args:
        bundle: an opened bundle.
        destination: see `staged_bundle`; may be the bundle itself.
        manifest: what `manifest.json` will hold; it lists the same files.

    Returns:
        The destination.

    Raises:
        BundleError: the manifest is not valid, or a file was changed since the bundle was opened.
        OutputError: as `staged_bundle`.
    """
    # Before it is replaced: then "." leads nowhere.
    target = Path(destination).resolve()
    with staged_bundle(target) as staging:
        for name in bundle.manifest.files:
            file = staging / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(bundle.read(name))
        write_manifest(staging / MANIFEST, manifest)
        Bundle.open(staging)
    return target


def _refuse_other_things(target: Path) -> None:
    if target.suffix == BUNDLE_SUFFIX:
        if target.is_dir():
            raise OutputError(f"{target} is a folder; a *.samsdk bundle is a file")
        if target.exists() and not _is_packed_bundle(target):
            raise OutputError(f"{target} is something else than a bundle and is left alone; give another name")
    elif target.exists() and not target.is_dir():
        raise OutputError(f"{target} is a file; give a folder or a name that ends in .samsdk")
    elif target.is_dir() and any(target.iterdir()) and not _is_bundle_folder(target):
        raise OutputError(f"{target} holds something else than a bundle and is left alone; give another folder")


def _is_packed_bundle(file: Path) -> bool:
    try:
        with zipfile.ZipFile(file) as archive:
            return MANIFEST in archive.namelist()
    except (OSError, zipfile.BadZipFile):
        return False


def _is_bundle_folder(folder: Path) -> bool:
    """Whether a folder holds a bundle's files and no others.

    Other programs have a `manifest.json` too, and the whole folder is removed when it is replaced.
    """
    try:
        manifest = json.loads((folder / MANIFEST).read_bytes())
        own = {MANIFEST, *manifest["files"]}
        return all(isinstance(entry["sha256"], str) for entry in manifest["files"].values()) and all(
            path.relative_to(folder).as_posix() in own for path in folder.rglob("*") if not path.is_dir()
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False
