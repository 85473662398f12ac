from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from scipy import ndimage

from samsdk.volumes.intensity import VoxelIntensity
from samsdk.volumes.preprocessing import VolumePreprocessing
from samsdk_training.labelled_volumes import read_labelled
from samsdk_training.set_folder import DataError, SetFolder
from samsdk_training.volume_samples import (
    VolumeAugmentation,
    VolumeSource,
    network_volume,
    volume_classes,
)

PREPROCESSING = VolumePreprocessing((8, 12, 16), VoxelIntensity("window_zscore", 0.0, 1000.0, 500.0, 250.0))
PLAIN = VolumeAugmentation(flip=0.0, quarter_turn=0.0)


def write(folder: Path, name: str, image: np.ndarray, label: np.ndarray, affine: np.ndarray | None = None) -> None:
    """Arrays are [D, H, W], files [X, Y, Z]."""
    for part, array in (("images", image), ("masks", label)):
        (folder / part).mkdir(parents=True, exist_ok=True)
        nibabel.save(
            nibabel.Nifti1Image(array.T, np.eye(4) if affine is None else affine),
            folder / part / f"{name}.nii.gz",
        )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three volumes whose voxels say where they are, with a box of class 1 and one of class 2."""
    for number, shape in enumerate([(20, 24, 28), (10, 30, 18), (6, 14, 40)]):
        index = np.arange(np.prod(shape)).reshape(shape)
        label = np.zeros(shape, np.uint8)
        label[2:5, 3:7, 4:9] = 1
        label[3:5, 8:11, 10:14] = 2
        write(tmp_path / "set", f"v{number}", (index % 997).astype(np.int16), label)
    (tmp_path / "set" / "train.txt").write_text("v0\nv1\nv2\n")
    return tmp_path / "set"


def source(folder: Path, augmentation: VolumeAugmentation = PLAIN, **changes) -> VolumeSource:
    return VolumeSource([folder], "train.txt", PREPROCESSING, augmentation, classes=3, **changes)


def test_crops_are_boxes_of_the_volumes_and_padding_is_no_signal(folder: Path) -> None:
    crops = source(folder)
    volumes = [network_volume(SetFolder(folder), name, PREPROCESSING, 3) for name in ("v0", "v1", "v2")]
    fill = -2.0
    seen = set()
    for index in range(30):
        voxels, labels = crops.sample(index)
        assert voxels.shape == labels.shape == PREPROCESSING.crop
        assert (voxels.dtype, labels.dtype) == (np.float32, np.int64)
        matches = []
        for number, volume in enumerate(volumes):
            missing = [max(want - have, 0) for want, have in zip(voxels.shape, volume.voxels.shape, strict=True)]
            pads = [(one // 2, one - one // 2) for one in missing]
            whole = np.pad(volume.voxels, pads, constant_values=fill)
            classes = np.pad(volume.labels, pads)
            boxes = np.lib.stride_tricks.sliding_window_view(whole, voxels.shape)
            for start in np.argwhere((boxes == voxels).all(axis=(3, 4, 5))):
                box = tuple(slice(at, at + side) for at, side in zip(start, voxels.shape, strict=True))
                matches += [number] if (classes[box] == labels).all() else []
        assert matches, index
        seen |= set(matches)
    assert seen == {0, 1, 2}


def test_an_epoch_has_each_volume_once_and_a_number_is_always_the_same_crop(folder: Path) -> None:
    varied = VolumeAugmentation(0.5, 0.5, 0.5, 15.0, 0.15, 0.5)
    one, other = source(folder, varied, seed=3), source(folder, varied, seed=3, cached=1)
    batch = one.batch(1, 2)
    assert batch.crops.shape == (2, 1, 8, 12, 16)
    for index, crop, labels in zip((2, 3), batch.crops, batch.labels, strict=True):
        again = other.sample(index)
        assert np.array_equal(crop[0].numpy(), again[0])
        assert np.array_equal(labels.numpy(), again[1])
    assert not np.array_equal(source(folder, varied, seed=4).sample(2)[0], other.sample(2)[0])
    assert one.summary() == {"set": 3}
    places = [[int(np.random.default_rng((3, epoch)).permutation(3)[place]) for place in range(3)] for epoch in (0, 1)]
    assert all(sorted(order) == [0, 1, 2] for order in places)


@pytest.mark.parametrize(("balance", "share"), [((2.0, 1.0), 2 / 3), ((1.0, 0.0), 1.0), ((0.0, 1.0), 0.0)])
def test_objects_are_in_the_middle_as_often_as_asked_for(tmp_path: Path, balance, share: float) -> None:
    label = np.zeros((40, 40, 40), np.uint8)
    label[20, 20, 20] = 1
    write(tmp_path / "one", "v", np.ones((40, 40, 40), np.float32), label)
    (tmp_path / "one" / "train.txt").write_text("v")
    crops = source(tmp_path / "one", balance=balance)
    middle = [int(crops.sample(index)[1][4, 6, 8]) for index in range(300)]
    assert np.mean(middle) == pytest.approx(share, abs=0.08)


def test_image_and_labels_are_flipped_and_turned_together(folder: Path) -> None:
    crops = source(folder, VolumeAugmentation(flip=0.5, quarter_turn=1.0))
    marked = network_volume(SetFolder(folder), "v0", PREPROCESSING, 3)
    crops._volume = lambda place: marked._replace(voxels=marked.labels.astype(np.float32), fill=0.0)
    orders = set()
    for index in range(12):
        voxels, labels = crops.sample(index)
        assert voxels.shape == PREPROCESSING.crop
        assert np.array_equal(voxels, labels)
        orders.add(labels.tobytes())
    assert len(orders) >= 8  # some are background alone


def test_a_deformed_crop_is_turned_and_zoomed_about_its_middle(folder: Path) -> None:
    """A long bar comes out as long and as thick as its zoom says, under the same turn for image and labels."""
    preprocessing = VolumePreprocessing((16, 32, 48), PREPROCESSING.intensity)
    label = np.zeros((16, 32, 48), np.uint8)
    label[6:10, 12:20, 8:40] = 1
    write(folder.parent / "bar", "v", 1000 * label.astype(np.float32), label)
    (folder.parent / "bar" / "train.txt").write_text("v")
    still = VolumeAugmentation(0.0, 0.0, 1.0, 0.0, 0.0)
    crops = VolumeSource([folder.parent / "bar"], "train.txt", preprocessing, still, classes=2)
    voxels, labels = crops.sample(0)
    assert np.array_equal(labels, label)
    np.testing.assert_allclose(voxels, 4 * label.astype(np.float32) - 2, atol=1e-4)
    crops.augmentation = VolumeAugmentation(0.0, 0.0, 1.0, 20.0, 0.2)
    for index in range(6):
        voxels, labels = crops.sample(index)
        assert np.mean((voxels > 0) == (labels == 1)) > 0.98
        assert np.allclose(ndimage.center_of_mass(labels), [7.5, 15.5, 23.5], atol=1.0)
        # A turn keeps the volume; zooms of a fifth change it by their cube.
        assert 0.8**3 * 0.9 < labels.sum() / label.sum() < 1.2**3 * 1.1
        points = np.argwhere(labels) - [7.5, 15.5, 23.5]
        lengths = np.sqrt(np.linalg.eigvalsh(np.cov(points.T)) * 12)
        straight = np.sqrt(np.linalg.eigvalsh(np.cov((np.argwhere(label) - [7.5, 15.5, 23.5]).T)) * 12)
        ratio = lengths / straight
        # A shear would make the ratios differ: all three sides grow or shrink alike.
        assert ratio[2] == pytest.approx(ratio.mean(), rel=0.12)


def test_orientation_and_spacing_are_the_networks(tmp_path: Path) -> None:
    image = np.zeros((8, 8, 8), np.float32)
    image[1, 2, 6] = 1000
    affine = np.diag([-2.0, 1.0, 1.0, 1.0])
    write(tmp_path / "turned", "v", image, (image > 0).astype(np.uint8), affine)
    rules = VolumePreprocessing((8, 8, 8), PREPROCESSING.intensity, (1.0, 1.0, 1.0), "RAS")
    volume = network_volume(SetFolder(tmp_path / "turned"), "v", rules, 2)
    assert volume.voxels.shape == (8, 8, 16)
    # x runs to the left in the file, and voxels are 2 mm along it: 6 is 1 from the other end, 2 and 3 of 16.
    assert {tuple(one) for one in np.argwhere(volume.labels).tolist()} == {(1, 2, 2), (1, 2, 3)}
    assert np.unravel_index(volume.voxels.argmax(), volume.voxels.shape)[:2] == (1, 2)
    assert np.array_equal(volume.objects, np.flatnonzero(volume.labels))


def test_classes_come_from_names_or_labels(folder: Path) -> None:
    assert volume_classes([folder], "train.txt") == {"0": "background", "1": "class 1", "2": "class 2"}
    (folder / "labels.json").write_text('{"1": "anterior", "3": "other"}')
    named = {"0": "background", "1": "anterior", "2": "class 2", "3": "other"}
    assert volume_classes([folder, folder], "train.txt") == named


def test_a_union_of_labels_is_one_class(folder: Path) -> None:
    assert volume_classes([folder], "train.txt", union=True) == {"0": "background", "1": "foreground"}
    apart = network_volume(SetFolder(folder), "v0", PREPROCESSING, 3)
    united = network_volume(SetFolder(folder), "v0", PREPROCESSING, 2, union=True)
    assert set(np.unique(apart.labels)) == {0, 1, 2}
    np.testing.assert_array_equal(united.labels, apart.labels > 0)
    crops = VolumeSource([folder], "train.txt", PREPROCESSING, PLAIN, classes=2, union=True)
    np.testing.assert_array_equal(crops.sample(4)[1], source(folder).sample(4)[1] > 0)


def test_bad_sets_are_told(folder: Path) -> None:
    with pytest.raises(DataError, match=r"v0 in .*: expected labels from 0 to 1, got 2"):
        network_volume(SetFolder(folder), "v0", PREPROCESSING, 2)
    label = np.zeros((4, 5, 6), np.uint8)
    write(folder, "sizes", np.ones((4, 5, 6), np.float32), label[:, :, :5])
    with pytest.raises(DataError, match="the mask must hold integers of the image's size"):
        read_labelled(SetFolder(folder), "sizes")
    write(folder, "apart", np.ones((4, 5, 6), np.float32), label)
    nibabel.save(nibabel.Nifti1Image(label.T, np.diag([1, 1, 1.5, 1])), folder / "masks" / "apart.nii.gz")
    with pytest.raises(DataError, match=r"the mask lies 1\.5 voxels from its image"):
        read_labelled(SetFolder(folder), "apart")
    write(folder, "parts", np.ones((4, 5, 6), np.float32), label + np.float32(0.5))
    with pytest.raises(DataError, match="the mask must hold integers, got fractions"):
        read_labelled(SetFolder(folder), "parts")
    write(folder, "series", np.ones((4, 5, 6, 2), np.float32), label)
    with pytest.raises(DataError, match=r"series in .*"):
        read_labelled(SetFolder(folder), "series")
    (folder / "train.txt").write_text("")
    with pytest.raises(DataError, match="expected at least one volume in train"):
        source(folder)
    (folder / "train.txt").write_text("sizes2\n")
    write(folder, "sizes2", np.ones((4, 5, 6), np.float32), label)
    with pytest.raises(DataError, match=r"no voxel of .* is labelled in train"):
        volume_classes([folder], "train.txt")


@pytest.mark.parametrize(
    ("change", "message"),
    [({"flip": 1.5}, "flip: expected a probability, got 1.5"), ({"zoom": 1.0}, "a zoom of 0 to below 1")],
)
def test_augmentations_that_mean_nothing_are_refused(change, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        VolumeAugmentation(**change)


def test_brightness_changes_mean_and_contrast_and_nothing_else(folder: Path) -> None:
    bright, plain = source(folder, VolumeAugmentation(0.0, 0.0, brightness=1.0)), source(folder)
    for index in range(3):
        (voxels, labels), (before, truth) = bright.sample(index), plain.sample(index)
        assert np.array_equal(labels, truth)
        contrast, mean = np.polyfit(before.ravel(), voxels.ravel(), 1)
        assert 0.9 <= contrast <= 1.1
        assert -0.1 <= mean <= 0.1
        assert contrast != 1
        np.testing.assert_allclose(voxels, contrast * before + mean, atol=1e-4)
    assert torch.from_numpy(voxels).dtype == torch.float32
