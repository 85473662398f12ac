"""Checkpoints: a folder with `model.safetensors` and `model.json`, which together know the whole model.

`model.json` says what the tensors are for (architecture, geometry, intensity rule, classes, licence, lineage) and holds
the SHA-256 of the tensor file, so that neither passes with another checkpoint's half. Nothing here touches pickle.
"""

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from samsdk.auto import AutoPrompts
from samsdk.errors import SamsdkError
from samsdk.io.atomic import atomic_folder
from samsdk.io.wheels import file_sha256
from samsdk.manifest import AUTO, PROMPTABLE, SINGLE_MASKS, VOLUME
from samsdk.transforms import Preprocessing
from samsdk.volumes.preprocessing import VolumePreprocessing
from samsdk_training.checkpoint_tasks import build_network, task_problems, volume_problems
from samsdk_training.models.sam import Sam
from samsdk_training.models.sam_config import SamConfig
from samsdk_training.tensor_file import save_tensors

FORMAT = 1
TENSORS_FILE = "model.safetensors"
JSON_FILE = "model.json"

_SECTIONS = ("model", "geometry", "intensity", "normalisation", "prompts", "classes", "licence", "lineage")
_FIELDS = {"format", *_SECTIONS, "tensors"}
# Fields that came after the first checkpoints, with what is meant where they are absent.
_LATER = {"task": PROMPTABLE}


class CheckpointError(SamsdkError, ValueError):
    """A checkpoint is missing, damaged, of an unknown format, or its tensors are not those of its model.

    Attributes:
        problems: Everything that was found wrong, one text each.
    """

    def __init__(self, summary: str, problems: Iterable[str] = ()) -> None:
        self.problems = tuple(problems)
        super().__init__("\n  ".join([summary, *self.problems]))


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A trained model with all that is needed to use it. The dictionaries hold JSON types only.

    Attributes:
        model: Architecture and configuration, as `SamConfig.to_dict` gives them, or `VolumeConfig`'s.
        geometry: How an image becomes the square input; of a model for volumes, and likewise `intensity`, see
            `samsdk.volumes.preprocessing.VolumePreprocessing`.
        intensity: How values of any depth become 8-bit.
        normalisation: How 8-bit values become the network's input; the rule `none` of a model for volumes.
        prompts: Kinds of prompt that the model takes, those that it was trained with, and the kind of its mask prompt;
            of a model that prompts itself `selection` and `splitting`, see `samsdk.auto.AutoPrompts`.
        classes: Name of each class by its number as text, `0` the background; empty without classes.
        licence: Licence, source and attribution of the weights.
        lineage: Where the weights came from.
        state: The tensors by their official state-dict keys.
        task: What the model does, one of `samsdk.manifest.TASKS`. A semantic model takes no prompt, and its decoder has
            one mask for each class, in the order of their numbers. One that prompts itself has a generator.
    """

    model: dict[str, Any]
    geometry: dict[str, Any]
    intensity: dict[str, Any]
    normalisation: dict[str, Any]
    prompts: dict[str, Any]
    classes: dict[str, str]
    licence: dict[str, Any]
    lineage: dict[str, Any]
    state: dict[str, Tensor] = field(repr=False)
    task: str = PROMPTABLE

    @classmethod
    def of(
        cls,
        model: Sam,
        config: SamConfig,
        preprocessing: Preprocessing,
        *,
        prompts: Mapping[str, Any],
        licence: Mapping[str, Any],
        lineage: Mapping[str, Any],
    ) -> "Checkpoint":
        """A promptable model that a recipe trained, without classes; arguments as the attributes."""
        rules = asdict(preprocessing)
        return cls(
            model=config.to_dict(),
            geometry={key: rules[key] for key in ("rule", "input_size", "interpolation", "box_rounding")},
            intensity={"rule": rules["intensity"]},
            normalisation={"rule": rules["normalisation"]},
            prompts=dict(prompts),
            classes={},
            licence=dict(licence),
            lineage=dict(lineage),
            state=model.state_dict(),
        )

    @property
    def preprocessing(self) -> Preprocessing:
        """Geometry, intensity, normalisation and the kind of mask prompt as the code that carries them out."""
        return Preprocessing(
            **self.geometry,
            intensity=self.intensity["rule"],
            normalisation=self.normalisation["rule"],
            mask_prompt=self.prompts["mask"],
        )

    @property
    def volume(self) -> VolumePreprocessing:
        """Geometry and intensity of a model for volumes as the code that carries them out.

        Raises:
            ValueError: The rules are not valid, which `check` tells as a `CheckpointError`.
        """
        return VolumePreprocessing.of(self.geometry, self.intensity)

    @property
    def single_mask(self) -> str:
        """Which mask answers when one is asked for, see `samsdk.answers.wanted_masks`."""
        return str(self.prompts.get("single", SINGLE_MASKS[0]))

    @property
    def auto(self) -> AutoPrompts | None:
        """How the model prompts itself; None if that is not its task.

        Raises:
            ValueError: The settings are missing or not valid, which `check` tells as a `CheckpointError`.
        """
        return AutoPrompts.of(self.prompts) if self.task == AUTO else None

    def build(self) -> Sam:
        """Build the model with these weights, in evaluation mode, on the CPU.

        Raises:
            CheckpointError: The configuration is not valid, tensors are missing, unexpected or of the wrong shape, or
                the model is for volumes.
        """
        model = self.build_network()
        if not isinstance(model, Sam):
            raise CheckpointError("this checkpoint's model is for volumes, expected one for images")
        return model

    def build_network(self) -> nn.Module:
        """Like `build`, a model of any task."""
        self.check()
        network = build_network(self.task, self.model)
        network.load_state_dict(self.state)
        return network.eval()

    def check(self) -> None:
        """Compare configuration, tensors and task without building the model.

        Raises:
            CheckpointError: As for `build`; the text lists every problem.
        """
        problems = state_problems(self.model, self.state, self.task)
        if not problems and self.task == VOLUME:
            rules = {name: getattr(self, name) for name in ("geometry", "intensity", "normalisation", "prompts")}
            problems = volume_problems(self.model, rules, self.classes)
        elif not problems:
            config = SamConfig.from_dict(self.model)
            problems = task_problems(self.task, config, self.prompts, self.classes)
        if problems:
            raise CheckpointError("the parts of this checkpoint do not belong together:", problems)


def state_problems(model: Mapping[str, Any], state: Mapping[str, Tensor], task: str = PROMPTABLE) -> list[str]:
    """List what keeps tensors from loading into a model.

    Args:
        model: Configuration as `SamConfig.to_dict` gives it, or `VolumeConfig`'s.
        state: Tensors by state-dict key.
        task: See `Checkpoint`.

    Returns:
        One text for each missing, unexpected or wrongly shaped tensor, sorted by key; empty if they fit.
    """
    try:
        # On the meta device a model costs no memory and no initialisation.
        with torch.device("meta"):
            expected = build_network(task, model).state_dict()
    except ValueError as error:
        return [f"the configuration is not valid: {error}"]
    problems = []
    for key in sorted(expected.keys() | state.keys()):
        if key not in state:
            problems.append(f"missing: {key} {tuple(expected[key].shape)}")
        elif key not in expected:
            problems.append(f"unexpected: {key} {tuple(state[key].shape)}")
        elif state[key].shape != expected[key].shape:
            problems.append(f"wrong shape: {key}: expected {tuple(expected[key].shape)}, got {tuple(state[key].shape)}")
    return problems


def save_checkpoint(checkpoint: Checkpoint, folder: str | os.PathLike[str]) -> None:
    """Write a checkpoint so that the folder holds all of it or is not touched.

    See `samsdk.io.atomic.atomic_folder` for what a kill leaves behind.

    Args:
        checkpoint: What to write; checked first, so that nothing is saved which would not load.
        folder: Target folder; missing parents are made. It may hold an earlier checkpoint, but nothing else.

    Raises:
        CheckpointError: The checkpoint does not pass `Checkpoint.check`, a dictionary is not JSON, or the target holds
            other files.
        OutputError: The system refuses the write.
    """
    checkpoint.check()
    target = Path(folder)
    _expect_replaceable(target)
    with atomic_folder(target) as partial:
        _write_files(checkpoint, partial)


def load_checkpoint(folder: str | os.PathLike[str]) -> Checkpoint:
    """Read a checkpoint and verify all of it: format, fields, hash, tensors against the configuration.

    Args:
        folder: The folder with `model.json` and `model.safetensors`.

    Returns:
        The checkpoint, tensors on the CPU, bit for bit as they were saved.

    Raises:
        CheckpointError: A file is missing or damaged, the format is not known, or the tensors are not those of the
            model; the text lists every problem.
    """
    source = Path(folder)
    absent = [f"missing file: {name}" for name in (JSON_FILE, TENSORS_FILE) if not (source / name).is_file()]
    if absent:
        raise CheckpointError(f"{str(source)!r} is not a checkpoint folder:", absent)
    content = _read_json(source / JSON_FILE)
    state = _read_tensors(source / TENSORS_FILE, content["tensors"]["sha256"])
    checkpoint = Checkpoint(**{name: content[name] for name in (*_SECTIONS, *_LATER)}, state=state)
    try:
        checkpoint.check()
    except CheckpointError as error:
        raise CheckpointError(f"the checkpoint {str(source)!r} does not hold together:", error.problems) from None
    return checkpoint


def _expect_replaceable(target: Path) -> None:
    if not target.exists() and not target.is_symlink():
        return
    if target.is_symlink() or not target.is_dir():
        raise CheckpointError(f"cannot write the checkpoint {str(target)!r}: expected a folder, got a file or a link")
    # A whole folder is replaced, so a wrong path must not take a user's other files with it.
    others = sorted(path.name for path in target.iterdir() if path.name not in (JSON_FILE, TENSORS_FILE))
    if others:
        raise CheckpointError(
            f"cannot write the checkpoint {str(target)!r}: the folder holds other files; choose another one:",
            others[:10],
        )


def _write_files(checkpoint: Checkpoint, folder: Path) -> None:
    save_tensors(checkpoint.state, folder / TENSORS_FILE)
    content: dict[str, Any] = {"format": FORMAT, **{name: getattr(checkpoint, name) for name in (*_LATER, *_SECTIONS)}}
    content["tensors"] = {"file": TENSORS_FILE, "sha256": file_sha256(folder / TENSORS_FILE)}
    try:
        text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"the checkpoint's description is not plain JSON: {error}") from error
    (folder / JSON_FILE).write_text(text + "\n", encoding="utf-8")


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{str(path)!r} cannot be read as JSON: {error}") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{str(path)!r}: expected a JSON object, got {type(content).__name__}")
    if type(content.get("format")) is not int or content["format"] != FORMAT:
        raise CheckpointError(
            f"{str(path)!r}: expected checkpoint format {FORMAT}, got {content.get('format')!r}; "
            "a newer format needs a newer samsdk"
        )
    content = {**_LATER, **content}
    problems = [f"missing field: {name}" for name in sorted(_FIELDS - content.keys())]
    problems += [f"unknown field: {name}" for name in sorted(content.keys() - _FIELDS - _LATER.keys())]
    problems += [
        f"field {name}: expected an object, got {type(content[name]).__name__}"
        for name in (*_SECTIONS, "tensors")
        if name in content and not isinstance(content[name], dict)
    ]
    if not isinstance(content["task"], str):
        problems.append(f"field task: expected a word, got {type(content['task']).__name__}")
    if not problems and not isinstance(content["tensors"].get("sha256"), str):
        problems.append("field tensors: expected the sha256 of the tensor file")
    if problems:
        raise CheckpointError(f"{str(path)!r} is not a checkpoint description:", problems)
    return content


def _read_tensors(path: Path, sha256: str) -> dict[str, Tensor]:
    try:
        found = file_sha256(path)
        if found != sha256:
            raise CheckpointError(
                f"{str(path)!r} is damaged or belongs to another checkpoint: expected sha256 {sha256}, got {found}"
            )
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{str(path)!r} cannot be read as safetensors: {error}") from error
