import itertools

import nibabel
import numpy as np
import pytest
import torch
from nibabel.orientations import apply_orientation, io_orientation

from samsdk.errors import VolumeError
from samsdk.volumes import Volume
from samsdk.volumes.grid import NetworkGrid, Turn, neighbours
from samsdk.volumes.intensity import VoxelIntensity
from samsdk.volumes.preprocessing import VolumePreprocessing

PLAIN = VoxelIntensity("window_zscore", -1e6, 1e6, 0, 1)


def affines() -> list[np.ndarray]:
    """All 48 ways to lay the axes, and oblique ones between them."""
    found = []
    for order, signs in itertools.product(itertools.permutations(range(3)), itertools.product((1, -1), repeat=3)):
        affine = np.eye(4)
        affine[:3, :3] = np.eye(3)[:, list(order)] * np.array(signs) * [0.7, 1.1, 2.5]
        found.append(affine)
    generator = np.random.default_rng(5)
    for _ in range(60):
        rotation, _ = np.linalg.qr(generator.normal(size=(3, 3)))
        affine = np.eye(4)
        affine[:3, :3] = rotation * generator.uniform(0.5, 3, 3)
        affine[1, 2] += 0.3  # a tilted gantry
        found.append(affine)
    return found


def test_axes_are_turned_as_nibabel_turns_them() -> None:
    array = np.arange(24).reshape(2, 3, 4)
    for affine in affines():
        expected = apply_orientation(array.T, io_orientation(affine)).T
        np.testing.assert_array_equal(Turn.to_ras(affine).view(array), expected)


def test_what_is_written_to_the_view_is_written_to_the_array() -> None:
    for affine in affines()[:48]:
        turn, labels = Turn.to_ras(affine), np.zeros((2, 3, 4), np.uint8)
        view = turn.view(labels)
        view[0] = 1
        image = nibabel.as_closest_canonical(nibabel.Nifti1Image(labels.T, affine))
        # The lowest plane of the patient.
        assert np.asarray(image.dataobj)[:, :, 0].all()
        assert labels.sum() == view[0].size


def rules(**changes: object) -> VolumePreprocessing:
    return VolumePreprocessing((16, 16, 16), PLAIN, **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (1.7, 0.6, 2.0), (0.4, 3.0, 5.0)])
def test_resampling_is_trilinear_over_the_same_extent(spacing: tuple[float, float, float]) -> None:
    array = np.random.default_rng(0).normal(size=(14, 23, 17)).astype(np.float32)
    volume = Volume.of(array, spacing=(2.0, 0.8, 1.25))
    grid = NetworkGrid.of(volume, rules(spacing=spacing))
    sides = zip(array.shape, volume.spacing, spacing, strict=True)
    assert grid.shape == tuple(max(1, round(side * here / there)) for side, here, there in sides)
    found = grid.sample(array, PLAIN.scale(array))
    expected = torch.nn.functional.interpolate(torch.from_numpy(array)[None, None], size=grid.shape, mode="trilinear")
    np.testing.assert_allclose(found, expected[0, 0].numpy(), atol=1e-5)


def test_spacing_follows_the_axes_as_they_are_turned() -> None:
    # Stored as sagittal planes of 3 mm, seen from the left.
    affine = np.array([[0, 0, -3, 50], [0.5, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 1.0]])
    volume = Volume(np.zeros((10, 40, 60), np.uint8), affine)
    grid = NetworkGrid.of(volume, rules(spacing=(2.0, 1.0, 1.0), orientation="RAS"))
    assert (grid.turned, grid.shape) == ((40, 60, 10), (20, 30, 30))
    still = NetworkGrid.of(volume, rules(spacing=(2.0, 1.0, 1.0)))
    assert still.shape == (15, 40, 30)
    assert NetworkGrid.of(volume, rules()).shape == (10, 40, 60)


def test_labels_are_placed_by_the_nearest_voxel() -> None:
    labels = np.random.default_rng(1).integers(0, 9, (6, 10, 8)).astype(np.uint8)
    volume = Volume.of(labels, spacing=(3.0, 1.0, 1.0))
    grid = NetworkGrid.of(volume, rules(spacing=(1.0, 2.5, 0.5)))
    placed = grid.place(labels)
    assert (placed.shape, placed.dtype) == ((18, 4, 16), np.uint8)
    for index in np.ndindex(placed.shape):
        # The voxel in whose extent this one's middle lies; on a border either is right.
        places = [(one + 0.5) * side / new for one, side, new in zip(index, labels.shape, placed.shape, strict=True)]
        near = itertools.product(
            *({int(place - 1e-6), int(min(place, side - 1))} for place, side in zip(places, labels.shape, strict=True))
        )
        assert placed[index] in {labels[one] for one in near}


def test_a_spacing_that_is_hardly_right_is_refused() -> None:
    with pytest.raises(VolumeError, match=r"would become \(15000, 15000, 15000\).*check the volume's spacing"):
        NetworkGrid.of(Volume.of(np.zeros((300, 300, 300), np.uint8), (50, 50, 50)), rules(spacing=(1.0, 1.0, 1.0)))


def test_neighbours_of_the_same_grid_are_the_voxels_themselves() -> None:
    for side in (1, 7, 300):
        below, above, weight = neighbours(side, side)
        np.testing.assert_array_equal(below, np.arange(side))
        np.testing.assert_array_equal(above, below)
        assert not weight.any()
    below, above, _ = neighbours(1, 5)
    assert not below.any()
    assert not above.any()
