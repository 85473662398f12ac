"""Compiled graphs on disk, so that the next process need not compile: each with a hash that is checked.

An engine's own cache is loaded as it is; a flipped bit in it changes masks without a word.
"""

import hashlib
import json
import logging
import platform
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from samsdk.errors import OutputError
from samsdk.io.atomic import atomic_write
from samsdk.tiers import Graph

logger = logging.getLogger(__name__)

# Files that are kept: a few bundles, their tiers, both graphs.
_MOST: Final = 32
_DIGEST: Final = hashlib.sha256().digest_size


class CompiledCache:
    """The place of one compiled graph.

    Args:
        folder: of all compiled graphs.
        content: the graph's bytes.
        graph: how it is run.
        engine: name, version and settings of what compiles it.
    """

    def __init__(self, folder: Path, content: bytes, graph: Graph, engine: dict[str, Any]) -> None:
        # The processor too: a home folder may be shared between machines.
        how = json.dumps([asdict(graph), engine, platform.machine(), platform.processor()], sort_keys=True, default=str)
        key = hashlib.sha256(hashlib.sha256(content).digest() + how.encode()).hexdigest()
        self._file = folder / f"{key}.bin"

    def read(self) -> tuple[dict[str, Any], bytes] | None:
        """What `write` was given, or None if there is nothing, or not what was written."""
        try:
            kept = self._file.read_bytes()
        except OSError:
            return None
        body = kept[_DIGEST:]
        if hashlib.sha256(body).digest() != kept[:_DIGEST]:
            logger.warning("the compiled graph %s is damaged and is made again", self._file)
            return None
        length = int.from_bytes(body[:8], "little")
        about: dict[str, Any] = json.loads(body[8 : 8 + length])
        return about, body[8 + length :]

    def write(self, about: dict[str, Any], blob: bytes) -> None:
        """Keep a compiled graph and what is to be known of it; a folder that cannot be written is left alone."""
        header = json.dumps(about).encode()
        body = len(header).to_bytes(8, "little") + header + blob
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            with atomic_write(self._file) as file:
                file.write(hashlib.sha256(body).digest() + body)
            self._prune()
        except (OSError, OutputError) as error:
            logger.info("the compiled graph is not kept: %s", error)

    def _prune(self) -> None:
        files = sorted(self._file.parent.glob("*.bin"), key=lambda file: file.stat().st_mtime)
        for file in files[:-_MOST]:
            file.unlink(missing_ok=True)
