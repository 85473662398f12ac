from pathlib import Path

import cv2
import nibabel
import numpy as np
import pytest
from numpy.typing import NDArray

from samsdk_training.data import DataError
from samsdk_training.slices import write_slices

SHAPE = (60, 56, 50)
# In voxels of RAS+: to the right, to the front, to the head.
X, Y, Z = slice(10, 30), slice(12, 40), slice(5, 25)


def add(folder: Path, name: str, values: NDArray, labels: NDArray, affine: NDArray | None = None) -> None:
    for kind, array in (("images", values.astype(np.float32)), ("masks", labels.astype(np.int16))):
        (folder / kind).mkdir(parents=True, exist_ok=True)
        image = nibabel.Nifti1Image(array, np.eye(4) if affine is None else affine)
        nibabel.save(image, folder / kind / f"{name}.nii.gz")
    with (folder / "list.txt").open("a") as file:
        file.write(f"{name}\n")


def box(label: int = 3) -> NDArray:
    labels = np.zeros(SHAPE, np.int16)
    labels[X, Y, Z] = label
    return labels


def ct() -> NDArray:
    values = np.full(SHAPE, -1000.0)
    values[X, Y, Z] = 40
    return values


def read(folder: Path, kind: str, name: str) -> NDArray:
    return cv2.imread(str(folder / kind / f"{name}.png"), cv2.IMREAD_UNCHANGED)


def test_every_labelled_slice_of_all_axes_is_written(tmp_path: Path) -> None:
    add(tmp_path / "in", "a", ct(), box())
    count = write_slices(tmp_path / "in", tmp_path / "out", every=4)
    places = [f"x{i:03d}" for i in (12, 16, 20, 24, 28)] + [f"y{i:03d}" for i in range(12, 40, 4)]
    expected = [f"a_{place}" for place in places + [f"z{i:03d}" for i in (8, 12, 16, 20, 24)]]
    assert (tmp_path / "out" / "train.txt").read_text().split() == expected
    assert count == len(expected)
    for kind in ("images", "masks"):
        assert sorted(path.stem for path in (tmp_path / "out" / kind).iterdir()) == sorted(expected)


def test_slices_stand_upright_and_keep_their_labels(tmp_path: Path) -> None:
    add(tmp_path / "in", "a", ct(), box(255))
    write_slices(tmp_path / "in", tmp_path / "out", every=4)
    # Rows: front to back, and head to foot.
    for name, shape, rows, columns in (
        ("a_z008", (56, 60), slice(56 - 40, 56 - 12), X),
        ("a_y016", (50, 60), slice(50 - 25, 50 - 5), X),
        ("a_x012", (50, 56), slice(50 - 25, 50 - 5), Y),
    ):
        expected = np.zeros(shape, np.uint8)
        expected[rows, columns] = 255
        np.testing.assert_array_equal(read(tmp_path / "out", "masks", name), expected)
        image = read(tmp_path / "out", "images", name)
        assert image.dtype == np.uint8
        np.testing.assert_array_equal(image > image.min(), expected > 0)


def test_a_volume_stored_in_another_orientation_gives_the_same_slices(tmp_path: Path) -> None:
    add(tmp_path / "in", "a", ct(), box())
    # Axes in the order z, x, y, of which x and y run backwards.
    affine = np.array([[0, -1, 0, 59], [0, 0, -1, 55], [1, 0, 0, 0], [0, 0, 0, 1.0]])
    turned = [volume[::-1, ::-1].transpose(2, 0, 1) for volume in (ct(), box())]
    add(tmp_path / "in", "b", *turned, affine)
    write_slices(tmp_path / "in", tmp_path / "out", every=5)
    names = (tmp_path / "out" / "train.txt").read_text().split()
    first = [name for name in names if name.startswith("a_")]
    assert len(names) == 2 * len(first) > 0
    for name in first:
        for kind in ("images", "masks"):
            other = read(tmp_path / "out", kind, name.replace("a_", "b_"))
            np.testing.assert_array_equal(other, read(tmp_path / "out", kind, name))


def test_ct_is_windowed_by_turns(tmp_path: Path) -> None:
    add(tmp_path / "in", "a", ct(), box())
    write_slices(tmp_path / "in", tmp_path / "out", every=4, windows=[(-160, 240), (-1000, 200)])
    # 40 HU: 200 of 400 above -160, and 1040 of 1200 above -1000.
    for name, value in (("a_z008", 128), ("a_z012", 221), ("a_z016", 128)):
        image = read(tmp_path / "out", "images", name)
        assert set(np.unique(image)) == {0, value}
        assert image[56 - 20, 20] == value


def test_mr_is_clipped_at_its_percentiles(tmp_path: Path) -> None:
    values = np.random.default_rng(0).uniform(-400, 3000, SHAPE)
    values[0, 0, 0] = 1e6
    add(tmp_path / "in", "a", values, box())
    write_slices(tmp_path / "in", tmp_path / "out", every=4)
    low, high = np.percentile(values.astype(np.float32), [0.5, 99.5])
    expected = np.rot90((values[:, :, 12].clip(low, high) - low) / (high - low) * 255)
    np.testing.assert_allclose(read(tmp_path / "out", "images", "a_z012"), expected, atol=0.51)


def test_a_constant_volume_is_black(tmp_path: Path) -> None:
    add(tmp_path / "in", "a", np.full(SHAPE, 7.0), box())
    write_slices(tmp_path / "in", tmp_path / "out")
    assert not read(tmp_path / "out", "images", "a_z010").any()


def test_slices_with_few_labelled_pixels_and_narrow_planes_are_left_out(tmp_path: Path) -> None:
    labels = box()
    labels[:, :, 10] = 0
    labels[10, 12:16, 10] = 1
    add(tmp_path / "in", "a", ct(), labels)
    add(tmp_path / "in", "thin", ct()[:, :, :40], box()[:, :, :40])
    write_slices(tmp_path / "in", tmp_path / "out", every=5)
    names = (tmp_path / "out" / "train.txt").read_text().split()
    assert [name for name in names if "_z" in name and name[0] == "a"] == ["a_z005", "a_z015", "a_z020"]
    assert {name[:6] for name in names if name[0] == "t"} == {"thin_z"}


def other_shape(folder: Path) -> None:
    add(folder, "a", ct(), box()[1:])


def four_axes(folder: Path) -> None:
    add(folder, "a", ct()[..., None], box()[..., None])


def high_label(folder: Path) -> None:
    add(folder, "a", ct(), box(256))


def negative_label(folder: Path) -> None:
    add(folder, "a", ct(), box(-1))


def no_label(folder: Path) -> None:
    add(folder, "a", ct(), box(0))


def no_mask(folder: Path) -> None:
    add(folder, "a", ct(), box())
    (folder / "masks" / "a.nii.gz").unlink()


def truncated(folder: Path) -> None:
    add(folder, "a", np.random.default_rng(0).normal(size=SHAPE), box())
    path = folder / "images" / "a.nii.gz"
    path.write_bytes(path.read_bytes()[:-5000])


def nothing(folder: Path) -> None:
    folder.mkdir()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (other_shape, r"a in .*: .* of its shape \(60, 56, 50\)"),
        (four_axes, "a volume must have three axes"),
        (high_label, "labels 0 to 255"),
        (negative_label, "labels 0 to 255"),
        (no_label, "holds no slice with at least 60 labelled pixels"),
        (no_mask, "a in .* has no mask"),
        (truncated, "is no NIfTI volume"),
        (nothing, "has no list.txt"),
    ],
)
def test_a_set_that_is_malformed_leaves_nothing_behind(tmp_path: Path, spoil, message: str) -> None:
    # The first volume is good: its slices must go too.
    if spoil not in (no_label, nothing):
        add(tmp_path / "in", "good", ct(), box())
    spoil(tmp_path / "in")
    with pytest.raises(DataError, match=message):
        write_slices(tmp_path / "in", tmp_path / "out", every=10)
    assert [path.name for path in tmp_path.iterdir()] == ["in"]
