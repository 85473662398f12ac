"""Recipes `autoprosam` and `swin_unetr`: a model that names the class of each voxel of a volume, without prompts.

AutoProSAM (Lee et al., 2023, https://github.com/ChengyinLee/AutoProSAM_2024, MIT): a 2-D ViT turned to volumes, of
which what was learned of images is frozen, and its distillation to a SwinUNETR, which is what a device can run.
Published, encoder, generator and decoder have an AdamW each, with one schedule, and are clipped apart. Here it is one
AdamW that clips by groups (`LoopConfig.clip_groups`), which is the same: AdamW treats each number by itself, so that
with equal rates only the clipping tells which optimiser a parameter belongs to. Of the distillation no code is
published; what is not known of it is a field of the recipe.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from samsdk.manifest import VOLUME
from samsdk.volumes.preprocessing import NO_NORMALISATION
from samsdk_training.checkpoints import JSON_FILE, Checkpoint, CheckpointError, load_checkpoint, save_checkpoint
from samsdk_training.data_digest import set_digests
from samsdk_training.loop import fit
from samsdk_training.models.auto_pro_sam import AutoProSam, load_vit
from samsdk_training.models.auto_pro_sam_config import AutoProSamConfig
from samsdk_training.models.sam_config import SamConfig
from samsdk_training.models.vit import VitConfig
from samsdk_training.models.volume import VolumeConfig, build_volume_model
from samsdk_training.recipes.volume_loss import VolumeLoss, distillation_loss
from samsdk_training.recipes.volume_recipe import VolumeRecipe
from samsdk_training.recipes.volume_validation import volume_validation
from samsdk_training.split import TRAIN_LIST
from samsdk_training.volume_samples import VolumeBatch, VolumeSource, volume_classes

_Loss = Callable[[nn.Module, VolumeBatch, torch.Generator], dict[str, torch.Tensor]]


def train_volume(
    recipe: VolumeRecipe,
    base: Path | None,
    sets: Sequence[Path],
    run: Path,
    *,
    licence: Mapping[str, Any],
    show_progress: bool = True,
) -> dict[str, Any]:
    """Train a model for volumes, or go on with a run that was interrupted.

    Args:
        recipe: What to do.
        base: Folder of a checkpoint with a 2-D ViT that an AutoProSAM starts from: what it brings is frozen but for its
            norms. None starts from random weights, all of which are trained.
        sets: Folders of NIfTI volumes with the same classes, each with `train.txt` and `val.txt`; the latter picks the
            best weights.
        run: The run's folder; `best/` becomes the checkpoint.
        licence: Of the weights.
        show_progress: Whether to draw a progress bar on stderr.

    Returns:
        What `loop.fit` returns.

    Raises:
        DataError: A set is missing or malformed, or the sets name different classes.
        CheckpointError: Base or teacher cannot be read, or do not go with the recipe.
        TrainingError: The run belongs to another configuration, is in use, or the loss is not finite.
        MissingExtraError: SwinUNETR or NIfTI need what is not installed.
    """
    classes = volume_classes(sets, TRAIN_LIST, union=recipe.union)
    model, lineage = _start(recipe, base, len(classes))
    described = _describe(recipe, model, classes, licence)
    preprocessing = recipe.preprocessing
    source = VolumeSource(
        sets,
        TRAIN_LIST,
        preprocessing,
        recipe.augmentation,
        classes=len(classes),
        balance=recipe.balance,
        cached=recipe.cached_volumes,
        union=recipe.union,
        seed=recipe.loop.seed,
    )
    loss_of, taught = _loss(recipe, described)
    facts = {**recipe.to_dict(), "sets": source.summary(), "data_sha256": set_digests(sets), **lineage, **taught}

    def save_best(trained: nn.Module, folder: Path) -> None:
        save_checkpoint(replace(described, state=trained.state_dict(), lineage=facts), folder)

    return fit(
        model,
        batch_of=lambda number: source.batch(number, recipe.batch_size),
        loss_of=loss_of,
        validate=volume_validation(sets, preprocessing, classes, recipe.validation_cases, union=recipe.union),
        save_best=save_best,
        run=run,
        config=recipe.loop,
        recipe=facts,
        progress=show_progress,
    )


def _start(recipe: VolumeRecipe, base: Path | None, classes: int) -> tuple[nn.Module, dict[str, Any]]:
    """The model that training starts with, and what the record says of where it comes from."""
    config = replace(recipe.model, classes=classes)
    if base is None:
        return _drawn(config, recipe.loop.seed), {}
    if not isinstance(config, AutoProSamConfig):
        raise CheckpointError(f"the recipe {recipe.name} starts from random weights; it takes no base")
    checkpoint = load_checkpoint(base)
    vit = SamConfig.from_dict(checkpoint.model).encoder if checkpoint.task != VOLUME else None
    if not isinstance(vit, VitConfig):
        raise CheckpointError(f"expected a base whose encoder is a 2-D ViT, got {str(base)!r}")
    try:
        model = _drawn(replace(config, vit=replace(vit, adapters="none")), recipe.loop.seed)
    except ValueError as error:
        raise CheckpointError(f"this base does not go with the recipe: {error}") from error
    assert isinstance(model, AutoProSam)
    load_vit(model, {key: one.float() for key, one in checkpoint.state.items() if one.is_floating_point()})
    model.freeze()
    return model, {"base": _sha256(base)}


def _drawn(config: VolumeConfig, seed: int) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build_volume_model(config)


def _describe(
    recipe: VolumeRecipe, model: nn.Module, classes: Mapping[str, str], licence: Mapping[str, Any]
) -> Checkpoint:
    config = model.config if isinstance(model, AutoProSam) else replace(recipe.model, classes=len(classes))
    return Checkpoint(
        model=config.to_dict(),
        geometry=recipe.preprocessing.geometry(),
        intensity=recipe.intensity.to_dict(),
        normalisation={"rule": NO_NORMALISATION},
        prompts={"kinds": [], "trained": [], "mask": "logits"},
        classes=dict(classes),
        licence=dict(licence),
        lineage={},
        state={},
        task=VOLUME,
    )


def _loss(recipe: VolumeRecipe, student: Checkpoint) -> tuple[_Loss, dict[str, Any]]:
    """What is differentiated, and what the record says of the teacher."""
    supervised = VolumeLoss(recipe.dice_weight, recipe.ce_weight, background=recipe.background)
    kd = recipe.kd
    if kd is None:
        return lambda model, batch, generator: supervised(model(batch.crops), batch.labels), {}
    folder = Path(kd.teacher)
    checkpoint = load_checkpoint(folder)
    differing = _differences(student, checkpoint)
    if differing:
        raise CheckpointError(f"the teacher {kd.teacher!r} sees or names something else than its student:", differing)
    teacher = checkpoint.build_network().requires_grad_(False)

    def loss(model: nn.Module, batch: VolumeBatch, generator: torch.Generator) -> dict[str, torch.Tensor]:
        teacher.to(batch.crops.device)
        return distillation_loss(model, teacher, batch, supervised, kd.weight, kd.space)

    return loss, {"teacher": {"sha256": _sha256(folder), "recipe": checkpoint.lineage.get("recipe")}}


def _differences(student: Checkpoint, teacher: Checkpoint) -> list[str]:
    if teacher.task != VOLUME:
        return [f"task: expected {VOLUME}, got {teacher.task}"]
    pairs = {
        **{name: (student.geometry[name], teacher.geometry[name]) for name in ("crop", "spacing", "orientation")},
        "intensity": (student.intensity, teacher.intensity),
        "classes": (student.classes, teacher.classes),
    }
    return [f"{name}: {mine} and {theirs}" for name, (mine, theirs) in pairs.items() if mine != theirs]


def _sha256(checkpoint: Path) -> str:
    """Of the tensors; `load_checkpoint` has compared it with them."""
    return str(json.loads((checkpoint / JSON_FILE).read_bytes())["tensors"]["sha256"])
