"""One prompt, one answer: the loss of models that are trained with boxes, without a user who corrects them.

After the second stage of LiteMedSAM's training (Ma et al., https://github.com/bowang-lab/MedSAM, branch LiteMedSAM,
Apache-2.0).
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from samsdk.prompts import FOREGROUND
from samsdk_training.data import tight_box
from samsdk_training.losses import binary_iou, cross_entropy_loss, dice_loss
from samsdk_training.models.sam import Sam
from samsdk_training.simulate import Box, random_point


def outward_box(mask: NDArray[np.bool_], rng: np.random.Generator, largest: int) -> Box:
    """The tight box with each side moved outward by whole pixels, as many as a hasty person leaves.

    Args:
        mask: [H, W] bool, not empty.
        rng: the source of chance.
        largest: most pixels; each number from 0 on is as likely.

    Returns:
        (x0, y0, x1, y1), exclusive at x1 and y1, cut off at the image's border.
    """
    (x0, y0, x1, y1), (height, width) = tight_box(mask), mask.shape
    left, top, right, bottom = rng.integers(0, largest + 1, size=4).tolist()
    return (
        float(max(x0 - left, 0)),
        float(max(y0 - top, 0)),
        float(min(x1 + right, width)),
        float(min(y1 + bottom, height)),
    )


def single_prompt_loss(
    model: Sam, images: Tensor, masks: Tensor, generator: torch.Generator, *, box_shift: int = 5, points: float = 0.0
) -> dict[str, Tensor]:
    """Ask for each object once, by a box or a point, and score the single mask.

    Args:
        model: in training mode.
        images: [N, 3, S, S], preprocessed.
        masks: [N, K, S, S] bool, objects of each image; none is empty.
        generator: the source of chance.
        box_shift: see `outward_box`.
        points: share of the objects that are asked for by a point.

    Returns:
        `loss`, the sum of the means over objects of its parts `dice_loss`, `cross_entropy` and `iou_error`, and `iou`,
        the mean IoU of the answers (these four without gradient).
    """
    rng = np.random.default_rng(int(torch.randint(2**62, (1,), generator=generator, device=generator.device)))
    count, device = masks.shape[1], images.device
    embeddings = {name: one.repeat_interleave(count, 0) for name, one in model.encode(images).items()}
    objects = masks.flatten(0, 1)  # [P, S, S]
    truth, clicked = objects.cpu().numpy(), rng.random(len(objects)) < points
    rows = []
    for by_point in np.unique(clicked):
        members = torch.from_numpy(np.flatnonzero(clicked == by_point)).to(device)
        part = {name: one[members] for name, one in embeddings.items()}
        wanted = [truth[index] for index in members.tolist()]
        if by_point:
            coords = torch.tensor([[random_point(one, rng)] for one in wanted], dtype=torch.float32, device=device)
            labels = torch.full(coords.shape[:2], float(FOREGROUND), device=device)
            logits, scores = model.decode(part, points=(coords, labels))
        else:
            boxes = [outward_box(one, rng, box_shift) for one in wanted]
            logits, scores = model.decode(part, boxes=torch.tensor(boxes, dtype=torch.float32, device=device))
        rows.append(_score(logits[:, 0], scores[:, 0], objects[members].to(images.dtype)))
    dice, entropy, error, iou = torch.cat(rows).mean(0)
    parts = {"dice_loss": dice, "cross_entropy": entropy, "iou_error": error, "iou": iou}
    return {"loss": dice + entropy + error, **{name: one.detach() for name, one in parts.items()}}


def _score(logits: Tensor, scores: Tensor, objects: Tensor) -> Tensor:
    """Of P masks [P, 4E, 4E], their predicted IoU [P] and their objects [P, S, S]: [P, 4], see `single_prompt_loss`."""
    # Where the logits are coarser than the input, the share of the object in each cell is what is wanted.
    target = functional.adaptive_avg_pool2d(objects[:, None], (logits.shape[-2], logits.shape[-1]))[:, 0]
    iou = binary_iou(logits, target)
    terms = [dice_loss(logits, target), cross_entropy_loss(logits, target), (scores - iou).square(), iou]
    return torch.stack(terms, dim=1)
