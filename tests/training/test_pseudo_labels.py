"""A teacher that knows where discs are, and is as sure and as steady about each as the test says."""

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import ArrayLike, NDArray

from samsdk.embedding import Embedding
from samsdk.io.images import as_array
from samsdk.masks import Region
from samsdk.prompts import Prompt
from samsdk.results import Result
from samsdk.transforms import Preprocessing
from samsdk_training import pseudo_labels
from samsdk_training.data import DataError, read_set
from samsdk_training.mask_selection import Candidate, MaskLimits, border_contrast, instance_map, judge, suppress
from samsdk_training.proposals import box_iou
from samsdk_training.pseudo_labels import PseudoLabelConfig, label_images

SIDE = 128
# Name: x, y, radius, predicted IoU, whether its mask follows the box.
DISCS = {
    "good": (32, 32, 16, 0.95, False),
    "unsure": (96, 32, 16, 0.3, False),
    "unstable": (32, 96, 16, 0.95, True),
    "also good": (96, 96, 18, 0.9, False),
}


def disc(x: float, y: float, radius: float) -> NDArray[np.bool_]:
    rows, columns = np.mgrid[:SIDE, :SIDE]
    return np.asarray((rows - y) ** 2 + (columns - x) ** 2 <= radius**2)


def around(x: float, y: float, radius: float) -> tuple[float, float, float, float]:
    return x - radius, y - radius, x + radius + 1, y + radius + 1


class Teacher:
    name = "scripted"

    def encode(self, image: object) -> Embedding:
        size = as_array(image).shape[:2]
        return Embedding({"image_embeddings": np.zeros((1, 1, 1, 1))}, Preprocessing(64).frame(size), self.name, "none")

    def decode(
        self,
        embedding: Embedding,
        *,
        points: ArrayLike | None = None,
        labels: ArrayLike | None = None,
        box: ArrayLike | None = None,
        mask: ArrayLike | None = None,
    ) -> Result:
        asked = tuple(np.asarray(box, dtype=float).tolist())
        x, y, radius, score, follows = max(DISCS.values(), key=lambda one: box_iou(around(*one[:3]), asked))
        found, exact = disc(x, y, radius), box_iou(around(x, y, radius), asked) > 0.999
        if follows and not exact:
            found &= np.mgrid[:SIDE, :SIDE][1] < x  # half of it, for any box but the right one
        region = Region((SIDE, SIDE), 0, 0, found)
        scores = np.array([score], dtype=np.float32)
        return Result((region,), scores, np.zeros((1, 4, 4), np.float32), embedding.frame, {}, {}, "none", self.name)


class BatchTeacher(Teacher):
    def __init__(self) -> None:
        self.calls: list[int] = []

    def decode_batch(self, embedding: Embedding, prompts: Sequence[Prompt]) -> list[Result]:
        self.calls.append(len(prompts))
        return [self.decode(embedding, box=prompt.box) for prompt in prompts]


@pytest.fixture
def images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, Path]]:
    boxes = np.array([around(*one[:3]) for one in DISCS.values()], dtype=np.float32)
    monkeypatch.setattr(pseudo_labels, "propose_boxes", lambda image, config, rng: rng.permutation(boxes))
    found = []
    for index in range(4):
        pixels = np.full((SIDE, SIDE), 50 + index, dtype=np.uint8)
        for x, y, radius, _, _ in DISCS.values():
            pixels[disc(x, y, radius)] = 180
        path = tmp_path / f"{index}.png"
        cv2.imwrite(str(path), pixels)
        found.append((f"image{index}", path))
    return found


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_exactly_the_sure_and_steady_masks_are_kept(images: list[tuple[str, Path]], tmp_path: Path) -> None:
    summary = label_images(Teacher(), images, tmp_path / "set", PseudoLabelConfig())
    assert (summary.images, summary.labelled, summary.proposals, summary.objects) == (4, 4, 16, 8)
    assert summary.rejected == {"unsure": 4, "unstable": 4}
    labelled = list(read_set(tmp_path / "set", "train.txt"))
    assert [one.name for one in labelled] == ["image0", "image1", "image2", "image3"]
    expected = 2 * disc(*DISCS["good"][:3]) + 1 * disc(*DISCS["also good"][:3])
    for one, (_, path) in zip(labelled, images, strict=True):
        assert one.instances
        assert np.array_equal(one.image, cv2.imread(str(path), cv2.IMREAD_UNCHANGED))
        assert np.array_equal(one.label, expected)
    row = json.loads((tmp_path / "set" / "labels.jsonl").read_text().splitlines()[0])
    assert row["objects"][1] == {"box": [16, 16, 49, 49], "area": 797, "predicted_iou": 0.95, "stability": 1.0}
    assert cv2.imread(str(tmp_path / "set" / "sheet.png")).shape == (324, 6 * 322 + 2, 3)


def test_a_batch_is_one_call_and_gives_the_same(images: list[tuple[str, Path]], tmp_path: Path) -> None:
    teacher = BatchTeacher()
    label_images(teacher, images, tmp_path / "many", PseudoLabelConfig(jitters=2))
    assert teacher.calls == [4, 6] * 4
    label_images(Teacher(), images, tmp_path / "one", PseudoLabelConfig(jitters=2))
    assert content(tmp_path / "many") == content(tmp_path / "one")


def test_a_run_that_was_killed_goes_on_to_the_same_bytes(images: list[tuple[str, Path]], tmp_path: Path) -> None:
    class Killed(Teacher):
        encoded = 0

        def encode(self, image: object) -> Embedding:
            self.encoded += 1
            if self.encoded == 3:
                raise KeyboardInterrupt
            return super().encode(image)

    label_images(Teacher(), images, tmp_path / "whole", PseudoLabelConfig())
    with pytest.raises(KeyboardInterrupt):
        label_images(Killed(), images, tmp_path / "killed", PseudoLabelConfig())
    with (tmp_path / "killed" / "labels.jsonl").open("a") as file:
        file.write('{"id": "image2", "obj')  # torn by the kill
    assert not (tmp_path / "killed" / "train.txt").exists()
    label_images(Teacher(), images, tmp_path / "killed", PseudoLabelConfig())
    assert content(tmp_path / "killed") == content(tmp_path / "whole")
    again = BatchTeacher()
    label_images(again, images, tmp_path / "killed", PseudoLabelConfig())
    assert again.calls == []


def test_another_configuration_seed_or_teacher_is_refused(images: list[tuple[str, Path]], tmp_path: Path) -> None:
    label_images(Teacher(), images[:1], tmp_path / "set", PseudoLabelConfig())
    with pytest.raises(DataError, match="another stability"):
        label_images(Teacher(), images, tmp_path / "set", PseudoLabelConfig(stability=0.5))
    with pytest.raises(DataError, match="another seed"):
        label_images(Teacher(), images, tmp_path / "set", PseudoLabelConfig(), seed=1)
    other = Teacher()
    other.name = "other"
    with pytest.raises(DataError, match="labels of the teacher scripted, got other"):
        label_images(other, images, tmp_path / "set", PseudoLabelConfig())


@pytest.mark.parametrize("name", ["a b", "../a", ".hidden", "image0"])
def test_ids_must_be_file_names_and_unique(images: list[tuple[str, Path]], tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match="an id must be"):
        label_images(Teacher(), [images[0], (name, images[1][1])], tmp_path / "set", PseudoLabelConfig())


def test_why_a_mask_is_rejected() -> None:
    image = np.where(disc(60, 60, 20), 180, 50).astype(np.uint8)
    mask, box = disc(60, 60, 20), around(60, 60, 20)
    found = judge(mask | disc(120, 120, 1), 0.9, box, image, MaskLimits())
    assert isinstance(found, Candidate)
    assert np.array_equal(found.mask, mask)  # the crumb is gone
    assert judge(mask, 0.7, box, image, MaskLimits()) == "unsure"
    assert judge(disc(60, 60, 3), 0.9, box, image, MaskLimits()) == "tiny"
    assert judge(np.ones_like(mask), 0.9, box, image, MaskLimits()) == "whole"
    assert judge(mask | disc(110, 110, 12), 0.9, box, image, MaskLimits()) == "pieces"
    assert judge(mask, 0.9, (0, 0, 128, 128), image, MaskLimits()) == "loose"
    assert judge(mask, 0.9, box, np.full_like(image, 90), MaskLimits()) == "faint"


def test_the_contrast_is_that_of_the_best_channel() -> None:
    mask = disc(60, 60, 20)
    image = np.full((SIDE, SIDE, 3), 100, dtype=np.uint8)
    image[..., 1][mask] = 130
    assert border_contrast(mask, image) == pytest.approx(30.0)  # a constant band counts as one of deviation 1
    assert border_contrast(np.ones_like(mask), image) == 0


def test_small_masks_lie_on_large_ones_and_covered_ones_go() -> None:
    large, inner, top = disc(60, 60, 40), disc(60, 60, 15), disc(62, 60, 13)
    rejected: Counter[str] = Counter()
    candidates = [Candidate(mask, 0.9) for mask in (top, inner, large)]
    label, kept = instance_map(candidates, 0.3, rejected)
    # `top` hides most of `inner`, which goes; `large` keeps most of itself.
    assert [one.mask is mask for one, mask in zip(kept, (large, top), strict=True)] == [True, True]
    assert np.array_equal(label, np.where(top, 2, large))
    assert rejected == {"covered": 1}
    better = suppress([Candidate(inner, 0.8, 0.9), Candidate(top, 0.8, 0.95), Candidate(large, 0.1)], 0.5, rejected)
    assert [one.mask is mask for one, mask in zip(better, (top, large), strict=True)] == [True, True]
    assert rejected["duplicate"] == 1
