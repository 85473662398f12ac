"""The folder of a training run: `config.json`, `metrics.jsonl`, `curves.png`, `state/` and `best/`."""

import importlib
import json
import logging
import math
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor

from samsdk.io.atomic import atomic_path, atomic_write, refused_writes
from samsdk.io.locks import exclusive_lock
from samsdk_training.tensor_file import save_tensors
from samsdk_training.train_state import TrainingError

logger = logging.getLogger(__name__)


class RunFolder:
    """Reads and writes the files of one run.

    Attributes:
        path: of the folder.
        state: the folder of the state to go on from; absent before the first was saved.
        best: the folder for the best model, written by the recipe.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self.state = self.path / "state"
        self.best = self.path / "best"
        self._config = self.path / "config.json"
        self._metrics = self.path / "metrics.jsonl"

    def check(self, config: Mapping[str, Any]) -> None:
        """Compare a configuration with that of the run, if there is one.

        Raises:
            TrainingError: they differ; the text names each field that does.
        """
        if not self._config.exists():
            return
        try:
            found = _flat(json.loads(self._config.read_bytes()))
        except (OSError, ValueError) as error:
            raise TrainingError(f"{str(self._config)!r} cannot be read: {error}") from error
        given = _flat(json.loads(json.dumps(config)))
        lines = [
            f"  {name}: the run has {found.get(name, 'nothing')!r}, got {given.get(name, 'nothing')!r}"
            for name in sorted(found.keys() | given.keys())
            if name not in found or name not in given or found[name] != given[name]
        ]
        if lines:
            raise TrainingError(
                "\n".join(
                    [
                        f"the run {str(self.path)!r} was started with another configuration; "
                        "go on with that one, or choose another folder:",
                        *lines,
                    ]
                )
            )

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keep other processes out of the run while the block runs.

        Raises:
            TrainingError: another one is at work in it.
            OutputError: the system refuses the lock's file.
        """
        with ExitStack() as stack:
            with refused_writes(self.path):
                try:
                    stack.enter_context(exclusive_lock(self.path / ".lock", wait=False))
                except BlockingIOError:
                    raise TrainingError(f"the run {str(self.path)!r} is in use by another process") from None
            yield

    def open(self, config: Mapping[str, Any]) -> None:
        """Make the folder, write its `config.json` if it has none, and repair what a kill may have left.

        Raises:
            OutputError: the system refuses the write.
        """
        with refused_writes(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
            if not self._config.exists():
                with atomic_write(self._config) as file:
                    file.write(json.dumps(config, indent=2, allow_nan=False).encode() + b"\n")
            # Killed between the two renames of atomic_folder, the earlier state lies whole under its other name.
            for earlier in self.path.glob(".state.*.earlier"):
                if self.state.exists():
                    shutil.rmtree(earlier)
                else:
                    earlier.replace(self.state)
            for partial in self.path.glob(".state.*.partial"):
                shutil.rmtree(partial)

    def append(self, record: Mapping[str, Any]) -> None:
        """Add a line to `metrics.jsonl`; numbers that JSON cannot hold become null.

        Raises:
            OutputError: the system refuses the write; what it left of the line is dropped when the run goes on.
        """
        line = json.dumps(_plain(record), allow_nan=False)
        with refused_writes(self._metrics), self._metrics.open("a", encoding="utf-8") as file:
            file.write(line + "\n")

    def metrics(self) -> list[dict[str, Any]]:
        """The whole lines of `metrics.jsonl`; one that a kill cut off is left out."""
        if not self._metrics.exists():
            return []
        records = []
        for line in self._metrics.read_text(encoding="utf-8").splitlines():
            try:
                records.append(json.loads(line))
            except ValueError:
                logger.warning("%s holds an incomplete line, which is left out", self._metrics)
        return records

    def truncate(self, step: int) -> None:
        """Drop what `metrics.jsonl` says of later steps, which the resumed run will do again."""
        kept = [record for record in self.metrics() if record["step"] <= step]
        with atomic_write(self._metrics) as file:
            file.writelines(json.dumps(record).encode() + b"\n" for record in kept)

    def keep_batch(self, batch: Any) -> Path:
        """Write the tensors of a batch to `failed_batch.safetensors`, for whoever looks for what broke a run.

        Args:
            batch: as `placement.to_device` takes it; a tensor's name is its way through mappings, lists and tuples.

        Returns:
            The file.

        Raises:
            OutputError: the system refuses the write.
        """
        path = self.path / "failed_batch.safetensors"
        with atomic_path(path) as temporary:
            save_tensors(dict(_tensors(batch, "batch")), temporary)
        return path

    def draw(self) -> None:
        """Draw losses and validation over the steps into `curves.png`; without matplotlib only a log line says so."""
        try:
            figures = importlib.import_module("matplotlib.figure")
            agg = importlib.import_module("matplotlib.backends.backend_agg")
        except ImportError:
            logger.info("no curves.png: matplotlib is not installed; pip install 'samsdk[train]' brings it")
            return
        records = self.metrics()
        # A canvas of its own instead of pyplot, which would choose a backend for the whole process.
        figure = figures.Figure(figsize=(10, 4), layout="constrained")
        canvas = agg.FigureCanvasAgg(figure)
        for axes, part in zip(figure.subplots(1, 2), ("losses", "validation"), strict=True):
            rows = [(record["step"], record[part]) for record in records if part in record]
            for name in dict.fromkeys(name for _, values in rows for name in values):
                points = [(step, values[name]) for step, values in rows if values.get(name) is not None]
                if points:
                    axes.plot(*zip(*points, strict=True), label=name)
            axes.set(title=part, xlabel="step")
            if axes.lines:
                axes.legend()
        with atomic_path(self.path / "curves.png") as temporary:
            canvas.print_png(str(temporary))


def _tensors(batch: Any, name: str) -> Iterator[tuple[str, Tensor]]:
    if isinstance(batch, Tensor):
        yield name, batch
    elif isinstance(batch, Mapping):
        for key, value in batch.items():
            yield from _tensors(value, f"{name}.{key}")
    elif isinstance(batch, list | tuple):
        keys = getattr(batch, "_fields", range(len(batch)))
        for key, value in zip(keys, batch, strict=True):
            yield from _tensors(value, f"{name}.{key}")


def _flat(content: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    fields: dict[str, Any] = {}
    for name, value in content.items():
        fields |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return fields


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _plain(one) for name, one in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value
