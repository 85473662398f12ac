"""A checkpoint at another input size, or with another number of masks.

The rules are those of SAMed (Zhang and Liu, 2023, https://github.com/hitachinsk/SAMed, MIT), but for two things: which
blocks are global is read off the configuration and the block's number, not off digits in a key; and the parts that
belong to single masks are drawn anew only if their number changes.
"""

import re
from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional

from samsdk_training.checkpoints import Checkpoint, CheckpointError
from samsdk_training.models.sam import SamConfig, build_mask_decoder
from samsdk_training.models.vit import VitConfig

POSITIONS = "image_encoder.pos_embed"
_RELATIVE = re.compile(r"image_encoder\.blocks\.(\d+)\.attn\.rel_pos_[hw]")
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


def resize_checkpoint(
    checkpoint: Checkpoint, image_size: int, num_multimask_outputs: int | None = None, seed: int = 0
) -> Checkpoint:
    """Fit a checkpoint to another input size, and optionally to another number of masks.

    Args:
        checkpoint: Any; of encoders other than the ViT no tensor depends on the input size.
        image_size: Side of the input in pixels.
        num_multimask_outputs: Masks for ambiguous prompts, or classes; None keeps their number.
        seed: Of what is drawn where the number of masks changes.

    Returns:
        The checkpoint; its lineage says what was interpolated and drawn. The checkpoint itself where nothing changes.

    Raises:
        CheckpointError: The encoder cannot have this input size.
    """
    config = SamConfig.from_dict(checkpoint.model)
    masks = config.decoder.num_multimask_outputs if num_multimask_outputs is None else num_multimask_outputs
    try:
        encoder = replace(config.encoder, image_size=image_size)
    except ValueError as error:
        raise CheckpointError(
            f"this model cannot have an input of {image_size} x {image_size} pixels: {error}"
        ) from error
    wanted = replace(config, encoder=encoder, decoder=replace(config.decoder, num_multimask_outputs=masks))
    if wanted == config:
        return checkpoint
    state, resized = dict(checkpoint.state), list[str]()
    if isinstance(encoder, VitConfig):
        state, resized = resize_positions(state, encoder)
    state, drawn = redraw_masks(state, wanted, seed)
    change = {"from": config.encoder.image_size, "to": image_size, "interpolated": resized, "drawn": drawn}
    return replace(
        checkpoint,
        model=wanted.to_dict(),
        geometry={**checkpoint.geometry, "input_size": image_size},
        lineage={**checkpoint.lineage, "resized": change},
        state=state,
    )
