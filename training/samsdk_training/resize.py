"""A checkpoint at another input size, with another number of masks, or with parts that are new.

The rules are those of SAMed (Zhang and Liu, 2023, https://github.com/hitachinsk/SAMed, MIT), but for two things: which
blocks are global is read off the configuration and the block's number, not off digits in a key; and the parts that
belong to single masks are drawn anew only if their number changes.
"""

import re
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from samsdk_training.checkpoints import Checkpoint, CheckpointError
from samsdk_training.models.sam import build_mask_decoder, build_sam
from samsdk_training.models.sam_config import SamConfig
from samsdk_training.models.vit import VitConfig

POSITIONS = "image_encoder.pos_embed"
_RELATIVE = re.compile(r"image_encoder\.blocks\.(\d+)\.attn\.rel_pos_[hw]")
CLASSES = "prompt_encoder.class_embeddings.weight"
_FOREGROUND = "prompt_encoder.point_embeddings.1.weight"
_DECODER = "mask_decoder."
_PER_MASK = ("mask_tokens.", "output_hypernetworks_mlps.", "iou_prediction_head.")


def resize_positions(state: Mapping[str, Tensor], encoder: VitConfig) -> tuple[dict[str, Tensor], list[str]]:
    """Interpolate the positions of a ViT encoder to another input size.

    The absolute ones are interpolated bilinearly over the map of tokens, the relative ones of global blocks linearly
    along their length, both as `align_corners=False`; windows keep theirs.

    Args:
        state: Tensors of a whole model by state-dict key.
        encoder: The shape that is wanted.

    Returns:
        All tensors, and the keys of those that were interpolated.
    """
    side = encoder.embedding_side
    resized = {}
    for key, tensor in state.items():
        relative = _RELATIVE.fullmatch(key)
        if key == POSITIONS and tensor.ndim == 4 and tensor.shape[1:3] != (side, side):
            grid = tensor.float().permute(0, 3, 1, 2)
            grid = functional.interpolate(grid, (side, side), mode="bilinear", align_corners=False)
            resized[key] = grid.permute(0, 2, 3, 1).to(tensor.dtype)
        elif relative and int(relative[1]) in encoder.global_blocks and len(tensor) != 2 * side - 1:
            table = functional.interpolate(tensor.float().T[None], 2 * side - 1, mode="linear", align_corners=False)
            resized[key] = table[0].T.to(tensor.dtype)
    return {**state, **resized}, sorted(resized)


def redraw_masks(state: Mapping[str, Tensor], config: SamConfig, seed: int) -> tuple[dict[str, Tensor], list[str]]:
    """Draw mask tokens, their hypernetworks and the quality head anew if the number of masks is another one.

    Args:
        state: Tensors of a whole model by state-dict key.
        config: The shape that is wanted.
        seed: Of the random weights.

    Returns:
        All tensors, and the keys of those that were drawn; none if the number of masks is the same.
    """
    tokens = state.get(f"{_DECODER}mask_tokens.weight")
    if tokens is None or len(tokens) == config.decoder.num_multimask_outputs + 1:
        return dict(state), []
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        fresh = build_mask_decoder(config).state_dict()
    drawn = {f"{_DECODER}{key}": tensor for key, tensor in fresh.items() if key.startswith(_PER_MASK)}
    dropped = tuple(_DECODER + part for part in _PER_MASK)
    kept = {key: tensor for key, tensor in state.items() if not key.startswith(dropped)}
    return {**kept, **drawn}, sorted(drawn)


def add_parts(state: Mapping[str, Tensor], config: SamConfig, seed: int) -> tuple[dict[str, Tensor], list[str]]:
    """Draw the parts that a shape has and the tensors lack: adapters, a generator of prompts, a table of classes.

    Args:
        state: Tensors of a whole model by state-dict key.
        config: The shape that is wanted.
        seed: Of the random weights.

    Returns:
        All tensors, and the keys of those that were drawn.
    """
    with torch.device("meta"):
        missing = sorted(build_sam(config).state_dict().keys() - state.keys())
    if not missing:
        return dict(state), []
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        fresh = build_sam(config).state_dict()
    drawn = {key: fresh[key] for key in missing}
    if CLASSES in drawn:
        # A point of any class begins as the base's own point on the foreground.
        drawn[CLASSES] = state[_FOREGROUND].expand_as(drawn[CLASSES]).clone()
    return {**state, **drawn}, missing


def resize_checkpoint(
    checkpoint: Checkpoint, image_size: int, num_multimask_outputs: int | None = None, seed: int = 0
) -> Checkpoint:
    """Fit a checkpoint to another input size, and optionally to another number of masks; see `fit_checkpoint`.

    Args:
        checkpoint: Any; of encoders other than the ViT no tensor depends on the input size.
        image_size: Side of the input in pixels.
        num_multimask_outputs: Masks for ambiguous prompts, or classes; None keeps their number.
        seed: Of what is drawn where the number of masks changes.

    Raises:
        CheckpointError: The encoder cannot have this input size.
    """
    config = resize_config(SamConfig.from_dict(checkpoint.model), image_size)
    masks = config.decoder.num_multimask_outputs if num_multimask_outputs is None else num_multimask_outputs
    decoder = replace(config.decoder, num_multimask_outputs=masks)
    return fit_checkpoint(checkpoint, replace(config, decoder=decoder), seed)


def resize_config(config: SamConfig, image_size: int | None) -> SamConfig:
    """A shape at another input size.

    Args:
        config: The shape.
        image_size: Side of the input in pixels; None keeps it.

    Raises:
        CheckpointError: Encoder or generator of prompts cannot have this input size.
    """
    size = image_size or config.encoder.image_size
    try:
        encoder = replace(config.encoder, image_size=size)
        generator = config.auto_prompt and replace(config.auto_prompt, image_size=size)
        return replace(config, encoder=encoder, auto_prompt=generator)
    except ValueError as error:
        raise CheckpointError(f"this model cannot have an input of {size} x {size} pixels: {error}") from error


def fit_checkpoint(checkpoint: Checkpoint, wanted: SamConfig, seed: int = 0) -> Checkpoint:
    """Fit a checkpoint to a shape of another input size or number of masks, or that has more parts.

    Args:
        checkpoint: Any.
        wanted: Its shape, but for the input size, the number of masks, and adapters, a generator of prompts or classes
            of points that are new.
        seed: Of what is drawn.

    Returns:
        The checkpoint; its lineage says what was interpolated and drawn. The checkpoint itself where nothing changes.

    Raises:
        CheckpointError: The shapes differ in more than that.
    """
    config = SamConfig.from_dict(checkpoint.model)
    if wanted == config:
        return checkpoint
    parts = zip(_parts(config), _parts(wanted), strict=True)
    if _core(wanted) != _core(config) or any(has and has != other for has, other in parts):
        raise CheckpointError(
            "expected a shape that differs in its input size, its number of masks, or parts that are new, but not in "
            "what the checkpoint's weights are of"
        )
    state, resized = dict(checkpoint.state), list[str]()
    if isinstance(wanted.encoder, VitConfig):
        state, resized = resize_positions(state, wanted.encoder)
    state, redrawn = redraw_masks(state, wanted, seed)
    state, added = add_parts(state, wanted, seed)
    sizes = {"from": config.encoder.image_size, "to": wanted.encoder.image_size}
    change = {**sizes, "interpolated": resized, "drawn": sorted(redrawn + added)}
    return replace(
        checkpoint,
        model=wanted.to_dict(),
        geometry={**checkpoint.geometry, "input_size": wanted.encoder.image_size},
        lineage={**checkpoint.lineage, "resized": change},
        state=state,
    )


def _core(config: SamConfig) -> dict[str, Any]:
    """What the weights of a shape are of, whatever the input size, the number of masks and what was added."""
    apart = ("image_size", "adapters")
    encoder = {key: value for key, value in asdict(config.encoder).items() if key not in apart}
    decoder = {**asdict(config.decoder), "num_multimask_outputs": None}
    return {"kind": type(config.encoder), "encoder": encoder, "decoder": decoder, "mask": config.mask_channels}


def _parts(config: SamConfig) -> tuple[Any, ...]:
    """The parts that a shape may have: each is something false where it is not there."""
    adapters = getattr(config.encoder, "adapters", "none")
    generator = config.auto_prompt and replace(config.auto_prompt, image_size=0)
    return (adapters != "none" and adapters, generator, config.point_classes)
