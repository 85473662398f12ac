"""What each task asks of a checkpoint: the parts that only together make sense."""

from collections.abc import Mapping
from typing import Any

from samsdk.auto import AutoPrompts
from samsdk.manifest import AUTO, SEMANTIC, TASKS
from samsdk_training.models.sam_config import SamConfig


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
