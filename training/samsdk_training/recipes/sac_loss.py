"""What a model that prompts itself is trained by: the U-Net by its map, the rest by the mask that its points bring."""

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from samsdk.point_selection import PointSelection, select_points
from samsdk.transforms import Frame, Preprocessing
from samsdk_training.label_samples import LabelBatch
from samsdk_training.losses import cross_entropy_loss, dice_loss
from samsdk_training.models.prompt_encoder import NOT_A_POINT
from samsdk_training.models.sam import Sam

Points = tuple[NDArray[np.float32], NDArray[np.float32]]


@dataclass(frozen=True)
class SacWeights:
    """Weights of the parts of the loss.

    Attributes:
        cross_entropy: of the mask.
        dice: of the mask.
        generator: of the U-Net's cross entropy.
    """

    cross_entropy: float = 1.0
    dice: float = 1.0
    generator: float = 1.0


def sac_loss(
    model: Sam,
    batch: LabelBatch,
    selection: PointSelection,
    weights: SacWeights,
    preprocessing: Preprocessing,
    generator: torch.Generator,
    *,
    from_labels: bool = False,
) -> dict[str, Tensor]:
    """Let the U-Net find foreground, pick points from its map, and answer them.

    Args:
        model: in training mode, with a generator of prompts.
        batch: images with labels 0 and 1.
        selection: how points are picked; from one to all of its positive ones, drawn for each batch.
        weights: of the parts.
        preprocessing: the model's.
        generator: the source of chance.
        from_labels: whether points are picked from the labels instead of from the map.

    Returns:
        `loss`, and without gradient its parts `cross_entropy`, `dice_loss` and `generator`. Images in which no point is
        picked, which the device answers without the decoder, train the U-Net alone.
    """
    if model.auto_prompt_generator is None:
        raise ValueError("expected a model with a generator of prompts")
    found = model.auto_prompt_generator(batch.images)
    target = batch.labels[:, None].to(found.dtype)
    side = target.shape[-1]
    low = found if found.shape[-1] == side else functional.interpolate(found, (side, side), mode="bilinear")
    of_map = cross_entropy_loss(low, target).mean()
    maps = (target if from_labels else found.sigmoid())[:, 0].detach().float().cpu().numpy()
    drawn = _drawn(selection, generator)
    points = [_pick(*pair, drawn, preprocessing) for pair in zip(maps, batch.frames, strict=True)]
    prompted = [index for index, (coords, _) in enumerate(points) if len(coords)]
    if not prompted:
        nothing = of_map.detach() * 0
        return _parts(weights, nothing, nothing, of_map)
    embeddings = {name: one[prompted] for name, one in model.encode(batch.images).items()}
    coords, labels = _padded([points[index] for index in prompted])
    device = batch.images.device
    logits, _ = model.decode(embeddings, points=(coords.to(device), labels.to(device)))
    wanted = target[prompted]
    return _parts(weights, cross_entropy_loss(logits, wanted).mean(), dice_loss(logits, wanted).mean(), of_map)


def _parts(weights: SacWeights, cross_entropy: Tensor, dice: Tensor, generator: Tensor) -> dict[str, Tensor]:
    return {
        "loss": weights.cross_entropy * cross_entropy + weights.dice * dice + weights.generator * generator,
        "cross_entropy": cross_entropy.detach(),
        "dice_loss": dice.detach(),
        "generator": generator.detach(),
    }


def _drawn(selection: PointSelection, generator: torch.Generator) -> PointSelection:
    count = 1 + int(torch.randint(selection.positives, (), generator=generator))
    return replace(selection, positives=count, negatives=min(selection.negatives, count))


def _pick(
    probabilities: NDArray[np.float32], frame: Frame, selection: PointSelection, preprocessing: Preprocessing
) -> Points:
    points, labels = select_points(probabilities, frame, selection)
    return preprocessing.apply_coords(points, frame), labels


def _padded(points: list[Points]) -> tuple[Tensor, Tensor]:
    """Coordinates [N, K, 2] and labels [N, K] of rows of different lengths; what a row lacks is no point."""
    most = max(len(labels) for _, labels in points)
    coords = np.zeros((len(points), most, 2), dtype=np.float32)
    kinds = np.full((len(points), most), NOT_A_POINT, dtype=np.float32)
    for index, (at, labels) in enumerate(points):
        coords[index, : len(at)], kinds[index, : len(labels)] = at, labels
    return torch.from_numpy(coords), torch.from_numpy(kinds)
