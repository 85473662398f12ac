from pathlib import Path

import cv2
import numpy as np
import pytest

from samsdk_training.data import DataError, LabelledImage, read_ids, read_set, tight_box


def make_set(folder: Path, label: np.ndarray, size: tuple[int, int] | None = None) -> Path:
    for part in ("images", "masks"):
        (folder / part).mkdir(parents=True)
    image = np.full((*(size or label.shape), 3), (10, 20, 200), np.uint8)  # BGR: mostly red
    cv2.imwrite(str(folder / "images" / "a.png"), image)
    cv2.imwrite(str(folder / "masks" / "a.png"), label)
    (folder / "list.txt").write_text("a\n")
    return folder


def two_kidneys(dtype: type) -> np.ndarray:
    label = np.zeros((20, 30), dtype)
    label[2:6, 3:8] = 1
    label[10:12, 20:25] = 1
    label[15:16, 1:4] = 2
    return label


def test_classes_are_split_into_connected_components(tmp_path: Path) -> None:
    (labelled,) = read_set(make_set(tmp_path, two_kidneys(np.uint8)))
    assert not labelled.instances
    assert labelled.image[0, 0].tolist() == [200, 20, 10]
    assert [tight_box(mask) for mask in labelled.objects()] == [(3, 2, 8, 6), (20, 10, 25, 12), (1, 15, 4, 16)]
    assert [int(mask.sum()) for mask in labelled.objects(smallest=5)] == [20, 10]
    assert [int(mask.sum()) for mask in labelled.objects(split_components=False)] == [30, 3]


def test_sixteen_bit_masks_hold_instances(tmp_path: Path) -> None:
    (labelled,) = read_set(make_set(tmp_path, two_kidneys(np.uint16)))
    assert [int(mask.sum()) for mask in labelled.objects()] == [30, 3]


def test_diagonal_pixels_are_connected() -> None:
    label = np.eye(4, dtype=np.uint8)
    assert len(LabelledImage("a", label, label, instances=False).objects()) == 1


def test_tight_box_of_a_single_pixel() -> None:
    mask = np.zeros((5, 7), bool)
    mask[4, 6] = True
    assert tight_box(mask) == (6, 4, 7, 5)


def test_missing_list_and_wrong_mask_size_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"has no list\.txt"):
        read_ids(tmp_path)
    folder = make_set(tmp_path / "set", two_kidneys(np.uint8), size=(21, 30))
    with pytest.raises(DataError, match=r"mask of a .* \(21, 30\), got \(20, 30\)"):
        list(read_set(folder))


def test_first_images_are_the_list_s_first(tmp_path: Path) -> None:
    folder = make_set(tmp_path / "set", two_kidneys(np.uint8))
    (folder / "list.txt").write_text("a\nb\n")
    assert [labelled.name for labelled in read_set(folder, part=slice(1))] == ["a"]


def test_shared_sets_hold_the_objects_that_their_readme_counts(shared_data: Path) -> None:
    counts = [len(image.objects(split_components=False)) for image in read_set(shared_data / "ct_kits19_mini")]
    assert (len(counts), sum(counts)) == (16, 30)
