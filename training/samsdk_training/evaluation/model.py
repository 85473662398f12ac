"""What is evaluated: a bundle, or a checkpoint, which alone needs torch."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import samsdk
from samsdk.auto import AutoPrompts
from samsdk.errors import MissingExtraError
from samsdk.manifest import VOLUME
from samsdk.splitting import Splitting
from samsdk.zoom import Zoom
from samsdk_training.evaluation.cases import VolumeSegmenter
from samsdk_training.evaluation.objects import Segmenter

# A checkpoint's description; `checkpoints`, which writes it, imports torch.
_DESCRIPTION: Final = "model.json"


@dataclass(frozen=True, eq=False)
class EvaluatedModel:
    """A model behind the interface that evaluation asks.

    Attributes:
        predictor: what answers; a `VolumeSegmenter` where the task is `volume`.
        task: what the model does, out of `samsdk.manifest.TASKS`.
        kinds: of prompts that it takes.
        classes: name of each class by its number as text, `0` the background; of a semantic model or one for volumes.
        advice: how close it recommends to look a second time; None where it recommends nothing.
        splitting: how its foreground is split into objects; as `Splitting` does where it does not say.
        bundle: the bundle's identity; None of a checkpoint.
        checkpoint: the SHA-256 of the checkpoint's tensors; None of a bundle.
        tier: of the bundle.
    """

    predictor: Segmenter | VolumeSegmenter
    task: str
    kinds: tuple[str, ...]
    classes: Mapping[str, str]
    advice: Zoom | None
    splitting: Splitting
    bundle: str | None = None
    checkpoint: str | None = None
    tier: str | None = None


def is_checkpoint(model: str) -> bool:
    """Whether a path is that of a checkpoint's folder."""
    return (Path(model) / _DESCRIPTION).is_file()


def open_bundle(model: str, *, device: str, tier: str | None) -> EvaluatedModel:
    """Load a bundle.

    Args:
        model: its path or name.
        device: see `samsdk.load`.
        tier: see `samsdk.load`.

    Raises:
        BundleError, BackendError, MissingExtraError: as `samsdk.load`.
    """
    predictor = samsdk.load(model, device=device, tier=tier)
    manifest = predictor.manifest
    return EvaluatedModel(
        predictor,
        manifest.task,
        manifest.prompt_kinds,
        manifest.classes,
        manifest.zoom,
        _splitting(manifest.auto),
        bundle=predictor.bundle.identity,
        tier=predictor.tier,
    )


def open_checkpoint(folder: str) -> EvaluatedModel:
    """Load a checkpoint, which then answers as its bundle will.

    Args:
        folder: of the checkpoint.

    Raises:
        CheckpointError: it is damaged.
        MissingExtraError: torch is not installed.
    """
    try:
        from samsdk_training.checkpoints import load_checkpoint
        from samsdk_training.torch_predictor import TorchPredictor
        from samsdk_training.torch_volume_predictor import TorchVolumePredictor
    except ImportError as error:
        raise MissingExtraError(f"a checkpoint needs {error.name}: pip install 'samsdk[train]'") from error
    checkpoint = load_checkpoint(folder)
    zoom, name = checkpoint.prompts.get("zoom"), Path(folder).name
    description = json.loads((Path(folder) / _DESCRIPTION).read_bytes())
    return EvaluatedModel(
        TorchVolumePredictor(checkpoint, name)
        if checkpoint.task == VOLUME
        else TorchPredictor.of(checkpoint, checkpoint.build(), name=name),
        checkpoint.task,
        tuple(checkpoint.prompts["kinds"]),
        checkpoint.classes,
        Zoom(**zoom) if zoom else None,
        _splitting(checkpoint.auto),
        checkpoint=description["tensors"]["sha256"],
    )


def _splitting(auto: AutoPrompts | None) -> Splitting:
    return (auto and auto.splitting) or Splitting()
