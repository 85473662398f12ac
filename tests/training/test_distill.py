import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import ArrayLike

from samsdk.embedding import Embedding
from samsdk.io.images import as_array
from samsdk.results import Result
from samsdk.transforms import Preprocessing
from samsdk_training.augment import Augmentation
from samsdk_training.checkpoints import load_checkpoint
from samsdk_training.data import DataError
from samsdk_training.distill import (
    DistillRecipe,
    EmbeddingDistiller,
    distill_embeddings,
    embedding_loss,
    to_grid,
)
from samsdk_training.embedding_cache import EmbeddingCache, cache_embeddings, valid_share
from samsdk_training.loop import LoopConfig
from samsdk_training.models import SamConfig, StudentEncoderConfig
from samsdk_training.models.sam import build_sam
from samsdk_training.models.sam_config import DecoderConfig

ENCODER = StudentEncoderConfig(64, stem_channels=8, widths=(8, 16, 16, 24), depths=(1, 1, 1, 1), out_channels=32)
MODEL = SamConfig(ENCODER, DecoderConfig(num_heads=2, mlp_dim=64, iou_head_hidden_dim=32))
PREPROCESSING = Preprocessing(64)


class Teacher:
    """Its embedding is the image's grey at 16 x 16, and that times a hundred."""

    name = "grey"
    encoded = 0

    def encode(self, image: object) -> Embedding:
        self.encoded += 1
        square, frame = PREPROCESSING.apply_image(as_array(image))
        grey = square.mean(axis=1).reshape(1, 1, 16, 4, 16, 4).mean(axis=(3, 5))
        return Embedding({"image_embeddings": np.concatenate([grey, 100 * grey], axis=1)}, frame, self.name, "none")

    def decode(
        self,
        embedding: Embedding,
        *,
        points: ArrayLike | None = None,
        labels: ArrayLike | None = None,
        box: ArrayLike | None = None,
        mask: ArrayLike | None = None,
    ) -> Result:
        raise NotImplementedError


@pytest.fixture
def images(tmp_path: Path) -> list[tuple[str, Path]]:
    found = []
    for index in range(12):
        coarse = np.random.default_rng(index).integers(0, 255, (4, 5)).astype(np.uint8)
        path = tmp_path / f"{index}.png"
        cv2.imwrite(str(path), cv2.resize(coarse, (80, 64), interpolation=cv2.INTER_LINEAR))
        found.append((f"image{index}", path))
    return found


def recipe(steps: int = 60) -> DistillRecipe:
    quiet = Augmentation().with_probabilities(0.0)
    loop = LoopConfig(steps=steps, learning_rate=1e-2, warmup_steps=5, validate_every=20, save_every=20)
    return DistillRecipe(loop, MODEL, quiet, batch_size=4, held_out=0.2)


def test_the_loss_is_that_of_the_cells_with_image() -> None:
    student, teacher = torch.zeros(1, 2, 2, 2), torch.zeros(1, 2, 2, 2)
    teacher[0, :, 0, 0] = torch.tensor([1.0, 3.0])  # mean square 5, all image
    teacher[0, :, 0, 1] = torch.tensor([2.0, 0.0])  # mean square 2, half image
    teacher[0, :, 1] = 1000.0  # padding
    valid = torch.from_numpy(valid_share((32, 48), 64, 2))[None]
    assert valid.tolist() == [[[1.0, 0.5], [0.0, 0.0]]]
    assert embedding_loss(student, teacher, valid).item() == pytest.approx((5 * 1 + 2 * 0.5) / 1.5)


def test_a_cell_that_image_fills_in_part_counts_in_part() -> None:
    assert valid_share((10, 64), 64, 4) == pytest.approx(np.outer([0.625, 0, 0, 0], np.ones(4)))


def test_embeddings_are_averaged_or_interpolated() -> None:
    values = torch.arange(16.0).reshape(1, 1, 4, 4)
    assert to_grid(values, 2).tolist() == [[[[2.5, 4.5], [10.5, 12.5]]]]
    assert to_grid(torch.full((1, 1, 2, 2), 3.0), 4).tolist() == [[[[3.0] * 4] * 4]]


def test_channels_count_alike_whatever_their_scale() -> None:
    distiller = EmbeddingDistiller(build_sam(MODEL), torch.tensor([1.0, 100.0]), torch.tensor([2.0, 200.0]))
    torch.nn.init.zeros_(distiller.projection.weight)
    torch.nn.init.zeros_(distiller.projection.bias)
    teacher = torch.tensor([5.0, 500.0]).reshape(1, 2, 1, 1).expand(1, 2, 8, 8)
    loss = distiller.loss(torch.rand(1, 3, 64, 64), teacher, torch.ones(1, 8, 8))
    assert loss.item() == pytest.approx(4.0)
    trained = {
        name.split(".")[0] + "." + name.split(".")[1] for name, p in distiller.named_parameters() if p.requires_grad
    }
    assert trained == {"sam.image_encoder", "projection.weight", "projection.bias"}


def test_the_cache_holds_one_teacher_and_resumes(images: list[tuple[str, Path]], tmp_path: Path) -> None:
    folder, teacher = tmp_path / "cache", Teacher()
    assert cache_embeddings(teacher, images[:5], folder, PREPROCESSING) == 5
    assert cache_embeddings(teacher, images, folder, PREPROCESSING) == 7
    assert teacher.encoded == 12
    about = json.loads((folder / "teacher.json").read_text())
    assert (about["teacher"], about["shape"], about["input_size"]) == ("grey", [2, 16, 16], 64)
    cache = EmbeddingCache(folder)
    expected = Teacher().encode(images[3][1]).image_embeddings[0]
    assert cache.read("image3").dtype == np.float16
    assert cache.read("image3") == pytest.approx(expected, rel=1e-3, abs=1e-3)
    (folder / "image0.npz").unlink()
    other = Teacher()
    other.name = "other"
    with pytest.raises(DataError, match="holds embeddings of 'grey'; teacher differ"):
        cache_embeddings(other, images, folder, PREPROCESSING)
    with pytest.raises(DataError, match="lacks 1 embeddings, among them image0"):
        cache.require(["image0", "image1"])


def test_the_statistics_leave_the_padding_out(images: list[tuple[str, Path]], tmp_path: Path) -> None:
    cache_embeddings(Teacher(), images, tmp_path / "cache", PREPROCESSING)
    names = [name for name, _ in images]
    mean, std = EmbeddingCache(tmp_path / "cache").statistics(names)
    # 64 x 80 pixels become 51 x 64: 12.75 of 16 rows of cells.
    cells = np.concatenate([Teacher().encode(path).image_embeddings[0, :, :13].reshape(2, -1) for _, path in images], 1)
    assert mean == pytest.approx(cells.mean(axis=1), rel=2e-3)
    assert std == pytest.approx(cells.std(axis=1), rel=2e-3)


def test_a_short_run_lowers_the_loss_and_its_best_loads(images: list[tuple[str, Path]], tmp_path: Path) -> None:
    cache_embeddings(Teacher(), images, tmp_path / "cache", PREPROCESSING)
    run = tmp_path / "run"
    result = distill_embeddings(
        recipe(), images, tmp_path / "cache", run, licence={"id": "CC0-1.0"}, device="cpu", show_progress=False
    )
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    losses = [line["losses"]["loss"] for line in lines if "losses" in line]
    assert np.mean(losses[-5:]) < 0.5 * np.mean(losses[:5])
    scores = [line["validation"]["negative_loss"] for line in lines if "validation" in line]
    assert result["best_score"] == max(scores)
    checkpoint = load_checkpoint(run / "best")
    assert checkpoint.lineage["teacher"] == "grey"
    trained = checkpoint.build().state_dict()
    torch.manual_seed(recipe().loop.seed)
    fresh = build_sam(MODEL).state_dict()
    assert torch.equal(trained["mask_decoder.iou_token.weight"], fresh["mask_decoder.iou_token.weight"])
    assert not torch.equal(trained["image_encoder.out.weight"], fresh["image_encoder.out.weight"])


def test_augmentation_that_moves_pixels_is_refused() -> None:
    with pytest.raises(ValueError, match="set to 0: rotate, zoom"):
        DistillRecipe(LoopConfig(steps=1, learning_rate=1e-3), augmentation=Augmentation())
