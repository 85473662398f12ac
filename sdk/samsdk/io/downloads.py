"""Files that are fetched from a public address, for weights that no package carries."""

import hashlib
import http.client
import os
import urllib.error
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO, Final
from urllib.parse import urlsplit

from samsdk.errors import DownloadError

_CHUNK: Final = 1 << 20
_TIMEOUT_S: Final = 60.0
# A line of progress for each tenth.
_STEPS: Final = 10


@dataclass(frozen=True)
class AddressSource:
    """Where a model's published weights come from, and what they must be.

    Attributes:
        name: What users call the model.
        url: The authors' own address of the weights file.
        sha256: Hash of the weights file.
        size: Size of the weights file in bytes.
        licence: SPDX identifier of the weights' licence.
        note: One sentence on what the model is.
    """

    name: str
    url: str
    sha256: str
    size: int
    licence: str
    note: str

    @property
    def file_name(self) -> str:
        """The weights file's own name."""
        return PurePosixPath(urlsplit(self.url).path).name

    @property
    def requirement(self) -> str:
        """What is fetched."""
        return self.url

    @property
    def origin(self) -> dict[str, str]:
        """What a checkpoint's lineage says of where the weights came from."""
        return {"address": self.url}

    @property
    def by_hand(self) -> str:
        """What to do on a machine without network."""
        return (
            f"To bring the file by hand: fetch {self.url} on a machine with network, then "
            f"`samsdk models pull {self.name} --from FILE`"
        )


def fetch(source: AddressSource, target: Path, say: Callable[[str], None]) -> None:
    """Fetch a file into its place: whole and with the right hash, or not at all.

    Args:
        source: What to fetch.
        target: Where the file goes; its folder must exist. No other process may do the same at the same time.
        say: Called with a line of text for each tenth.

    Raises:
        DownloadError: The address does not answer, or what it gives is not the file that was published.
        OSError: The system refuses the write.
    """
    try:
        # Only addresses of our own table come here, never a user's.
        answer = urllib.request.urlopen(source.url, timeout=_TIMEOUT_S)
    except (urllib.error.URLError, TimeoutError, ConnectionError) as error:
        raise DownloadError(f"cannot fetch {source.url}: {_reason(error)}. {source.by_hand}") from error
    with answer:
        _keep(source, answer, target, say)


def bring(source: AddressSource, origin: Path, target: Path) -> None:
    """Copy a file that was brought by hand into its place; arguments and errors otherwise as in `fetch`."""
    with origin.open("rb") as file:
        _keep(source, file, target, lambda _: None)


def _keep(source: AddressSource, stream: BinaryIO, target: Path, say: Callable[[str], None]) -> None:
    # A fixed name: what a killed run left is overwritten instead of piling up.
    part = target.with_name(f"{target.name}.part")
    try:
        with part.open("wb") as file:
            found = _copy(source, stream, file, say)
            file.flush()
            os.fsync(file.fileno())
        if found != source.sha256:
            raise DownloadError(
                f"{source.file_name} is not the file that was published: expected sha256 {source.sha256}, got {found}; "
                f"nothing was kept. {source.by_hand}"
            )
        part.replace(target)
    except BaseException:
        with suppress(OSError):
            part.unlink()
        raise


def _copy(source: AddressSource, stream: BinaryIO, file: BinaryIO, say: Callable[[str], None]) -> str:
    digest, done = hashlib.sha256(), 0
    while chunk := _read(source, stream):
        file.write(chunk)
        digest.update(chunk)
        before, done = done, done + len(chunk)
        if done > source.size:
            raise DownloadError(f"{source.file_name} is larger than the {source.size} bytes that were published")
        if done * _STEPS // source.size > before * _STEPS // source.size:
            say(f"{source.name}: {done / 1e6:.0f} of {source.size / 1e6:.0f} MB")
    return digest.hexdigest()


def _read(source: AddressSource, stream: BinaryIO) -> bytes:
    try:
        return stream.read(_CHUNK)
    except (http.client.HTTPException, TimeoutError, ConnectionError) as error:
        raise DownloadError(f"cannot fetch all of {source.url}: {_reason(error)}. {source.by_hand}") from error


def _reason(error: Exception) -> str:
    return str(getattr(error, "reason", "") or error or type(error).__name__)
