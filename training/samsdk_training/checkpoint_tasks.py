"""What each task asks of a checkpoint: the parts that only together make sense."""

from collections.abc import Mapping
from typing import Any

from torch import nn

from samsdk.auto import AutoPrompts
from samsdk.manifest import AUTO, SEMANTIC, TASKS, VOLUME
from samsdk.volumes.preprocessing import NO_NORMALISATION, VolumePreprocessing
from samsdk_training.models.sam import build_sam
from samsdk_training.models.sam_config import SamConfig
from samsdk_training.models.volume import build_volume_model, volume_config_from_dict


def build_network(task: str, model: Mapping[str, Any]) -> nn.Module:
    """The network of a task with random weights.

    Args:
        task: One of `samsdk.manifest.TASKS`.
        model: Configuration as its `to_dict` gives it.

    Raises:
        ValueError: The configuration is not valid, or not one of this task.
        MissingExtraError: It needs a library that is not installed.
    """
    if task == VOLUME:
        return build_volume_model(volume_config_from_dict(model))
    return build_sam(SamConfig.from_dict(model))


def task_problems(task: str, config: SamConfig, prompts: Mapping[str, Any], classes: Mapping[str, str]) -> list[str]:
    """List what keeps a checkpoint from its task.

    Args:
        task: One of `samsdk.manifest.TASKS`.
        config: The model's shape.
        prompts: See `Checkpoint`.
        classes: See `Checkpoint`.

    Returns:
        One text for each problem; empty if there is none.
    """
    if task == SEMANTIC:
        return _semantic_problems(config, prompts, classes)
    if task == AUTO:
        return _auto_problems(config, prompts)
    return [] if task in TASKS else [f"task: expected one of {', '.join(TASKS)}, got {task!r}"]


def volume_problems(
    model: Mapping[str, Any], rules: Mapping[str, Mapping[str, Any]], classes: Mapping[str, str]
) -> list[str]:
    """List what keeps a checkpoint from naming the voxels of a volume.

    Args:
        model: Its configuration, which is valid.
        rules: Its fields `geometry`, `intensity`, `normalisation` and `prompts`.
        classes: See `Checkpoint`.

    Returns:
        One text for each problem; empty if there is none.
    """
    config, problems = volume_config_from_dict(model), []
    try:
        crop = VolumePreprocessing.of(rules["geometry"], rules["intensity"]).crop
    except (ValueError, TypeError) as error:
        problems.append(str(error))
    else:
        if crop != tuple(config.crop):
            problems.append(f"geometry: crop must be the model's, {list(config.crop)}, got {list(crop)}")
    if rules["normalisation"] != {"rule": NO_NORMALISATION}:
        problems.append(f"normalisation: expected the rule {NO_NORMALISATION!r}, got {rules['normalisation']}")
    if list(classes) != [str(number) for number in range(config.classes)]:
        problems.append(f"classes: expected one for each channel, 0 to {config.classes - 1}, got {', '.join(classes)}")
    if rules["prompts"].get("kinds"):
        problems.append(f"prompts: a model for volumes takes none, got {', '.join(rules['prompts']['kinds'])}")
    return problems


def _semantic_problems(config: SamConfig, prompts: Mapping[str, Any], classes: Mapping[str, str]) -> list[str]:
    masks = config.decoder.num_multimask_outputs + 1
    problems = []
    if list(classes) != [str(number) for number in range(masks)]:
        problems.append(f"classes: expected one for each mask, 0 to {masks - 1}, got {', '.join(classes)}")
    if prompts["kinds"]:
        problems.append(f"prompts: a semantic model takes none, got {', '.join(prompts['kinds'])}")
    return problems


def _auto_problems(config: SamConfig, prompts: Mapping[str, Any]) -> list[str]:
    problems = []
    if config.auto_prompt is None:
        problems.append("model: auto_prompt is missing, the generator of a model that prompts itself")
    try:
        AutoPrompts.of(prompts)
    except ValueError as error:
        problems.append(str(error))
    return problems
