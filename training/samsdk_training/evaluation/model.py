"""What is evaluated: a bundle, or a checkpoint, which alone needs torch."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import samsdk
from samsdk.auto import AutoPrompts
from samsdk.errors import MissingExtraError
from samsdk.manifest import AUTO, PROMPTABLE, VOLUME
from samsdk.splitting import Splitting
from samsdk.zoom import Zoom
from samsdk_training.evaluation.cases import VolumeSegmenter
from samsdk_training.evaluation.objects import BOX, NO_PROMPT, Segmenter

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
        class_points: whether it was trained with points that name classes, and answers them; bundles do not.
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
    class_points: bool = False

    def refusal(self, prompt: str, *, by_class: bool = False) -> str | None:
        """Why this model cannot be asked with a prompt; None where it can.

        Args:
            prompt: `box`, `pointN` or `none`.
            by_class: whether a promptable model is asked for each class of the image.
        """
        kind = BOX if prompt == BOX else "points"
        if self.task == PROMPTABLE:
            if prompt == NO_PROMPT:
                return f"it answers to prompts ({', '.join(self.kinds)}), none is nothing to ask it"
            if by_class and kind == BOX:
                return "by class it is asked with points"
            return None if kind in self.kinds else f"it takes no {kind}"
        if prompt == NO_PROMPT:
            return None
        if self.task == AUTO:
            return None if kind != BOX else "a box means one object, and all that it finds is measured"
        if self.class_points:
            return None if kind != BOX else "it takes points that name classes, and no box"
        return f"it is {self.task} and takes no prompt"


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
    predictor: TorchPredictor | TorchVolumePredictor = (
        TorchVolumePredictor(checkpoint, name)
        if checkpoint.task == VOLUME
        else TorchPredictor.of(checkpoint, checkpoint.build(), name=name)
    )
    return EvaluatedModel(
        predictor,
        checkpoint.task,
        tuple(checkpoint.prompts["kinds"]),
        checkpoint.classes,
        Zoom(**zoom) if zoom else None,
        _splitting(checkpoint.auto),
        checkpoint=description["tensors"]["sha256"],
        class_points=isinstance(predictor, TorchPredictor) and predictor.takes_class_points,
    )


def _splitting(auto: AutoPrompts | None) -> Splitting:
    return (auto and auto.splitting) or Splitting()
