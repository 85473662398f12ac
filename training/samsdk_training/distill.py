"""Distillation, stage 1: a student's encoder learns a teacher's image embeddings, before any mask is shown to it.

After MobileSAM (Zhang et al., 2023: decoupled distillation, mean squared error) and EdgeSAM (Zhou et al., 2023: the
teacher's embeddings stored once, the padding left out); nothing was copied from either. A 1x1 projection, thrown away
afterwards, lets a student of another width learn from any teacher.
"""

import os
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from samsdk.intensity import to_uint8
from samsdk.io.images import as_array
from samsdk.transforms import Preprocessing
from samsdk_training.augment import GEOMETRY, Augmentation, augment
from samsdk_training.checkpoints import Checkpoint, save_checkpoint
from samsdk_training.data import DataError
from samsdk_training.data_digest import file_digest
from samsdk_training.embedding_cache import EmbeddingCache, valid_share
from samsdk_training.loop import LoopConfig, fit
from samsdk_training.models.sam import Sam, build_sam
from samsdk_training.models.sam_config import SamConfig, student_config

Batch = tuple[Tensor, Tensor, Tensor]


def intensity_only() -> Augmentation:
    """The usual augmentation of brightness and noise; nothing that moves pixels or turns an image into its negative."""
    return Augmentation().with_probabilities(0.0, (*GEOMETRY, "invert", "shuffle"))


@dataclass(frozen=True)
class DistillRecipe:
    """All that a run depends on, beside its images and the teacher's embeddings of them.

    Attributes:
        loop: steps, rates, precision.
        model: shape of the student; only its image encoder is trained.
        augmentation: of the student's input; geometry must stay off, because the embeddings are of the images as given.
        batch_size: images in a micro-batch.
        held_out: share of the images that validate instead of being trained on, at least one.

    Raises:
        ValueError: the augmentation moves pixels, or a number is out of its range.
    """

    loop: LoopConfig
    model: SamConfig = field(default_factory=student_config)
    augmentation: Augmentation = field(default_factory=intensity_only)
    batch_size: int = 16
    held_out: float = 0.05

    def __post_init__(self) -> None:
        moving = [name for name in GEOMETRY if getattr(self.augmentation, name) > 0]
        if moving:
            raise ValueError(f"the teacher saw the images unmoved; set to 0: {', '.join(moving)}")
        if self.batch_size < 1 or not 0 < self.held_out < 1:
            raise ValueError(f"expected batch_size >= 1 and 0 < held_out < 1, got {self.batch_size}, {self.held_out}")

    @property
    def preprocessing(self) -> Preprocessing:
        """As recipe `student`'s."""
        return Preprocessing(input_size=self.model.encoder.image_size)

    def to_dict(self) -> dict[str, Any]:
        """The recipe as JSON holds it."""
        shapes = {"model": self.model.to_dict(), "augmentation": self.augmentation.to_dict()}
        numbers = {"batch_size": self.batch_size, "held_out": self.held_out}
        return {"recipe": "distill", "loop": self.loop.to_dict(), **shapes, **numbers}


class EmbeddingDistiller(nn.Module):
    """A student whose embedding, projected, is compared with a teacher's standardised one.

    Args:
        sam: the student; all but its image encoder is frozen.
        mean: [C_t] of the teacher's channels, and likewise `std`.
    """

    def __init__(self, sam: Sam, mean: Tensor, std: Tensor) -> None:
        super().__init__()
        self.sam = sam.requires_grad_(False)
        self.sam.image_encoder.requires_grad_(True)
        channels = sam.image_encoder.embedding_shapes["image_embeddings"][0]
        self.projection = nn.Conv2d(channels, len(mean), 1)
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", mean.float().reshape(-1, 1, 1))
        self.register_buffer("std", std.float().clamp_min(1e-6).reshape(-1, 1, 1))

    def forward(self, image: Tensor) -> Tensor:
        """Encode and project: [N, 3, S, S] to [N, C_t, E, E]."""
        projected: Tensor = self.projection(self.sam.encode(image)["image_embeddings"])
        return projected

    def loss(self, image: Tensor, teacher: Tensor, valid: Tensor) -> Tensor:
        """Embedding loss of images [N, 3, S, S], the teacher's raw embeddings [N, C_t, E_t, E_t], valid [N, E, E]."""
        student = self(image)
        target = to_grid((teacher.float() - self.mean) / self.std, student.shape[-1])
        return embedding_loss(student.float(), target, valid)


def to_grid(embedding: Tensor, side: int) -> Tensor:
    """Bring [N, C, E, E] to [N, C, side, side]: means over areas where it shrinks, bilinear where it grows."""
    if embedding.shape[-1] >= side:
        return functional.adaptive_avg_pool2d(embedding, side)
    return functional.interpolate(embedding, size=(side, side), mode="bilinear", align_corners=False)


def embedding_loss(student: Tensor, teacher: Tensor, valid: Tensor) -> Tensor:
    """Mean squared error over channels and cells, each cell weighted by its share of image; a scalar.

    Args:
        student: [N, C, E, E], and likewise `teacher`.
        valid: [N, E, E], 0 to 1, not 0 everywhere.
    """
    error = (student - teacher).square().mean(dim=1)
    return (error * valid).sum() / valid.sum()


def distill_embeddings(
    recipe: DistillRecipe,
    images: Sequence[tuple[str, Path]],
    cache: str | os.PathLike[str],
    run: str | os.PathLike[str],
    *,
    licence: Mapping[str, Any],
    device: str = "auto",
    show_progress: bool = True,
) -> dict[str, Any]:
    """Train a student's encoder on cached embeddings, or go on with a run that was interrupted.

    Args:
        recipe: what to do.
        images: id and file of each image; all must be in the cache. They are kept in memory at the input's size.
        cache: the folder that `embedding_cache.cache_embeddings` filled.
        run: the run's folder; `run/best` becomes a checkpoint of a whole student, whose decoder is still untrained.
        licence: of the weights.
        device: see `loop.fit`, as for `show_progress`.

    Returns:
        What `loop.fit` returns; the score is the negative loss on the held-out images.

    Raises:
        DataError: an image is not in the cache or given twice, the cache is damaged, or fewer than two images.
        TrainingError: the run belongs to another configuration, or the loss is not finite.
    """
    embeddings = EmbeddingCache(cache)
    source = _Source(recipe, images, embeddings)
    mean, std = embeddings.statistics(source.training)
    torch.manual_seed(recipe.loop.seed)
    model = EmbeddingDistiller(build_sam(recipe.model), torch.from_numpy(mean), torch.from_numpy(std))
    lineage = {
        **recipe.to_dict(),
        "teacher": embeddings.teacher,
        "images": len(images),
        "data_sha256": file_digest(images),
    }

    def loss_of(module: nn.Module, batch: Batch, generator: torch.Generator) -> dict[str, Tensor]:
        return {"loss": model.loss(*batch)}

    def validate(module: nn.Module) -> dict[str, float]:
        place = next(model.parameters()).device
        groups = [
            source.validation[i : i + recipe.batch_size] for i in range(0, len(source.validation), recipe.batch_size)
        ]
        losses = [
            (float(model.loss(*(x.to(place) for x in source.stack(names, None)))), len(names)) for names in groups
        ]
        return {"negative_loss": -sum(loss * n for loss, n in losses) / sum(n for _, n in losses)}

    return fit(
        model,
        batch_of=source.batch,
        loss_of=loss_of,
        validate=validate,
        save_best=lambda module, folder: save_checkpoint(_checkpoint(model.sam, recipe, licence, lineage), folder),
        run=run,
        config=recipe.loop,
        score="negative_loss",
        recipe=lineage,
        device=device,
        progress=show_progress,
    )


class _Source:
    """Batches that depend on nothing but their number: every image once an epoch, each epoch in another order."""

    def __init__(self, recipe: DistillRecipe, images: Sequence[tuple[str, Path]], embeddings: EmbeddingCache) -> None:
        self.recipe, self.embeddings = recipe, embeddings
        names = [name for name, _ in images]
        if len(set(names)) < max(2, len(names)):
            raise DataError(f"expected at least two images, each once, got {len(names)} with {len(set(names))} ids")
        embeddings.require(names)
        # By a hash of their ids, so that neighbours in the list, often slices of one patient, are not all held out.
        ordered = sorted(names, key=lambda name: (zlib.crc32(name.encode()), name))
        count = max(1, round(recipe.held_out * len(names)))
        self.validation, self.training = ordered[:count], ordered[count:]
        self._pixels = {name: self._read(path) for name, path in images}

    def batch(self, number: int) -> Batch:
        recipe, count = self.recipe, len(self.training)
        rng = np.random.default_rng((recipe.loop.seed, number))
        names = []
        for index in range(number * recipe.batch_size, (number + 1) * recipe.batch_size):
            order = np.random.default_rng((recipe.loop.seed, 1, index // count)).permutation(count)
            names.append(self.training[int(order[index % count])])
        return self.stack(names, rng)

    def stack(self, names: Sequence[str], rng: np.random.Generator | None) -> Batch:
        side, preprocessing = self.recipe.model.encoder.embedding_side, self.recipe.preprocessing
        inputs, teachers, valid = [], [], []
        for name in names:
            pixels = self._pixels[name]
            if rng is not None:
                whole = np.ones(pixels.shape[:2], dtype=np.bool_)
                pixels, _ = augment(pixels, whole, rng, self.recipe.augmentation, preprocessing.input_size)
            square, frame = preprocessing.apply_image(pixels)
            inputs.append(square[0])
            teachers.append(self.embeddings.read(name))
            valid.append(valid_share(frame.resized_size, frame.input_size, side))
        return tuple(torch.from_numpy(np.stack(part)) for part in (inputs, teachers, valid))  # type: ignore[return-value]

    def _read(self, path: Path) -> NDArray[np.uint8]:
        image = to_uint8(as_array(path), self.recipe.preprocessing.intensity)
        height, width = self.recipe.preprocessing.frame((image.shape[0], image.shape[1])).resized_size
        return np.asarray(cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA), dtype=np.uint8)


def _checkpoint(
    model: Sam, recipe: DistillRecipe, licence: Mapping[str, Any], lineage: Mapping[str, Any]
) -> Checkpoint:
    prompts = {"kinds": ["points", "box", "mask"], "trained": [], "mask": "logits"}
    return Checkpoint.of(model, recipe.model, recipe.preprocessing, prompts=prompts, licence=licence, lineage=lineage)
