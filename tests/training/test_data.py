import json
from pathlib import Path

import cv2
import nibabel
import numpy as np
import pytest

from samsdk_training.data import DataError, LabelledImage, part_of_list, read_ids, read_set, tight_box
from samsdk_training.slices import write_slices


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


def add_volume(folder: Path, name: str, values: np.ndarray, labels: np.ndarray, affine: np.ndarray) -> None:
    for part, array in (("images", values.astype(np.float32)), ("masks", labels.astype(np.int16))):
        (folder / part).mkdir(parents=True, exist_ok=True)
        nibabel.save(nibabel.Nifti1Image(array, affine), folder / part / f"{name}.nii.gz")


def ct() -> tuple[np.ndarray, np.ndarray]:
    """A CT [X, Y, Z] of air with a block of soft tissue off its centre, and its label 2."""
    values = np.full((12, 10, 8), -1000.0)
    values[2:5, 1:7, 3:6] = 40
    values[11, 9, 7] = 500
    return values, 2 * (values == 40)


def test_classes_are_split_into_connected_components(tmp_path: Path) -> None:
    (labelled,) = read_set(make_set(tmp_path, two_kidneys(np.uint8)))
    assert not labelled.instances
    assert labelled.image[0, 0].tolist() == [200, 20, 10]
    assert [tight_box(mask) for mask in labelled.objects()] == [(3, 2, 8, 6), (20, 10, 25, 12), (1, 15, 4, 16)]
    assert [int(mask.sum()) for mask in labelled.objects(smallest=5)] == [20, 10]
    assert [int(mask.sum()) for mask in labelled.objects(split_components=False)] == [30, 3]
    assert (labelled.patient, labelled.spacing, labelled.volume, labelled.depth) == (None, None, None, None)


def test_sixteen_bit_masks_hold_instances(tmp_path: Path) -> None:
    (labelled,) = read_set(make_set(tmp_path, two_kidneys(np.uint16)))
    assert [int(mask.sum()) for mask in labelled.objects()] == [30, 3]


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("instances", [True, False])
def test_settings_say_whether_numbers_are_objects(tmp_path: Path, dtype: type, instances: bool) -> None:
    folder = make_set(tmp_path, two_kidneys(dtype))
    (folder / "set.json").write_text(json.dumps({"instances": instances}))
    (labelled,) = read_set(folder)
    assert len(labelled.objects()) == (2 if instances else 3)


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
    with pytest.raises(DataError, match=r"a in .*: the mask .* \(21, 30\), got \(20, 30\)"):
        list(read_set(folder))


def test_a_mask_with_colours_is_no_mask(tmp_path: Path) -> None:
    folder = make_set(tmp_path, two_kidneys(np.uint8))
    cv2.imwrite(str(folder / "masks" / "a.png"), np.zeros((20, 30, 3), np.uint8))
    with pytest.raises(DataError, match=r"size \(20, 30\), got \(20, 30, 3\)"):
        list(read_set(folder))


def test_first_images_are_the_list_s_first(tmp_path: Path) -> None:
    folder = make_set(tmp_path / "set", two_kidneys(np.uint8))
    (folder / "list.txt").write_text("a\nb\n")
    assert [labelled.name for labelled in read_set(folder, part=slice(1))] == ["a"]
    assert part_of_list(folder, "list.txt", (0.5, 1)) == slice(1, 2)


def test_images_of_all_formats_and_depths_without_a_list(tmp_path: Path) -> None:
    grey = np.random.default_rng(0).integers(0, 60000, (20, 30), dtype=np.uint16)
    colour = np.random.default_rng(1).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    images = {
        "b 16.png": grey,
        "c.TIF": grey,
        "d.tiff": grey.astype(np.float32) / 7,
        "a.b.png": colour,
        "e.bmp": colour,
        "f.jpg": np.full((20, 30), 99, np.uint8),
    }
    for part in ("images", "masks"):
        (tmp_path / part).mkdir()
    for file, pixels in images.items():
        name = file.rpartition(".")[0]
        cv2.imwrite(str(tmp_path / "images" / file), pixels)
        cv2.imwrite(str(tmp_path / "masks" / f"{name}.{'tif' if name == 'c' else 'png'}"), two_kidneys(np.uint8))
    (tmp_path / "images" / ".DS_Store").write_bytes(b"")
    (tmp_path / "images" / "notes.txt").write_text("no image")
    read = {labelled.name: labelled for labelled in read_set(tmp_path)}
    assert list(read) == ["a.b", "b 16", "c", "d", "e", "f"]
    for file, pixels in images.items():
        one = read[file.rpartition(".")[0]]
        np.testing.assert_array_equal(one.image, pixels if pixels.ndim == 2 else pixels[..., ::-1])
        assert one.image.dtype == pixels.dtype
        np.testing.assert_array_equal(one.label, two_kidneys(np.uint8))
    with pytest.raises(DataError, match=r"no train\.txt; .*`samsdk data split` makes"):
        read_ids(tmp_path, "train.txt")


@pytest.mark.parametrize(
    ("axis", "pixel", "rows", "columns"),
    [
        # Rows: front to back, or head to foot.
        ("z", (2.0, 0.5), slice(10 - 7, 10 - 1), slice(2, 5)),
        ("y", (3.0, 0.5), slice(8 - 6, 8 - 3), slice(2, 5)),
        ("x", (3.0, 2.0), slice(8 - 6, 8 - 3), slice(1, 7)),
    ],
)
def test_slices_of_a_volume_stand_upright_with_their_spacing(
    tmp_path: Path, axis: str, pixel: tuple[float, float], rows: slice, columns: slice
) -> None:
    values, labels = ct()
    add_volume(tmp_path, "a", values, labels, np.diag([0.5, 2, 3, 1.0]))
    # The same, stored as z, x (backwards), y.
    turned = np.array([[0, -0.5, 0, 5.5], [0, 0, 2, 0], [3, 0, 0, 0], [0, 0, 0, 1.0]])
    add_volume(tmp_path, "b", *(array[::-1].transpose(2, 0, 1) for array in (values, labels)), turned)
    (tmp_path / "set.json").write_text(json.dumps({"axis": axis}))
    read = list(read_set(tmp_path))
    place = "xyz".index(axis)
    depth = values.shape[place]
    assert [one.name for one in read[:depth]] == [f"a_{axis}{index:03d}" for index in range(depth)]
    assert {(one.volume, one.spacing, one.instances) for one in read[:depth]} == {("a", pixel, False)}
    assert {one.depth for one in read} == {(0.5, 2.0, 3.0)[place]}
    middle = read[4]
    expected = np.zeros([values.shape[other] for other in (2, 1, 0) if other != place], np.uint8)
    expected[rows, columns] = 2
    if axis == "x":
        assert np.any(labels[4])
    np.testing.assert_array_equal(middle.label, expected)
    # Soft tissue, -160 to 240 HU: 40 is the middle.
    np.testing.assert_array_equal(middle.image, np.where(expected > 0, 128, 0))
    assert len(read) == 2 * depth
    for one, other in zip(read[:depth], read[depth:], strict=True):
        np.testing.assert_array_equal(one.image, other.image)
        np.testing.assert_array_equal(one.label, other.label)
        assert one.spacing == other.spacing


def test_a_window_of_ones_own_and_what_write_slices_makes(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    labels = np.zeros((52, 50, 49))
    labels[5:45, 5:45, 5:45] = 1
    add_volume(tmp_path / "in", "mr", rng.normal(300, 80, labels.shape), labels, np.eye(4))
    add_volume(tmp_path / "in", "ct", rng.normal(-200, 400, labels.shape), labels, np.eye(4))
    (tmp_path / "in" / "set.json").write_text('{"window": [-125, 275]}')
    direct = {one.name: one for one in read_set(tmp_path / "in")}
    write_slices(tmp_path / "in", tmp_path / "out", every=4, axes="z", windows=[(-125, 275)])
    written = list(read_set(tmp_path / "out", "train.txt"))
    assert len(written) == 2 * 10
    for one in written:
        np.testing.assert_array_equal(one.image, direct[one.name].image)
        np.testing.assert_array_equal(one.label, direct[one.name].label)


def test_npz_as_medsam_and_samed_write_them(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    volume = rng.integers(0, 256, (3, 20, 30), dtype=np.uint8)
    gts = np.stack([two_kidneys(np.uint8) * (index > 0) for index in range(3)])
    np.savez_compressed(tmp_path / "MR_1.npz", imgs=volume, gts=gts, spacing=np.array([0.5, 0.7, 3.0]))
    slice_ = rng.random((20, 30), np.float32)
    np.savez(tmp_path / "case5_slice07.npz", image=slice_, label=two_kidneys(np.float32))
    colour = rng.integers(0, 256, (20, 30, 3), dtype=np.uint8)
    np.savez(tmp_path / "Microscopy_2.npz", imgs=colour, gts=two_kidneys(np.uint16))
    read = {one.name: one for one in read_set(tmp_path)}
    assert list(read) == ["MR_1_000", "MR_1_001", "MR_1_002", "Microscopy_2", "case5_slice07"]
    for index in range(3):
        one = read[f"MR_1_{index:03d}"]
        np.testing.assert_array_equal(one.image, volume[index])
        np.testing.assert_array_equal(one.label, gts[index])
        # SimpleITK's spacing is x, y, z; a pixel's is (down, across).
        assert (one.spacing, one.depth, one.volume, one.instances) == ((0.7, 0.5), 3.0, "MR_1", False)
    np.testing.assert_array_equal(read["case5_slice07"].image, slice_)
    np.testing.assert_array_equal(read["case5_slice07"].label, two_kidneys(np.uint8))
    np.testing.assert_array_equal(read["Microscopy_2"].image, colour)
    assert len(read["Microscopy_2"].objects()) == 2


def test_patients_come_with_their_images(tmp_path: Path) -> None:
    folder = make_set(tmp_path, two_kidneys(np.uint8))
    add_volume(folder, "v", *ct(), np.eye(4))
    (folder / "patients.csv").write_text("\ufeffid,patient\na,Anna\nv,Bert\n", encoding="utf-8")
    (folder / "list.txt").unlink()
    assert {(one.volume, one.patient) for one in read_set(folder)} == {(None, "Anna"), ("v", "Bert")}
    (folder / "patients.csv").write_text("id,patient\na,Anna\n")
    assert {(one.volume, one.patient) for one in read_set(folder)} == {(None, "Anna"), ("v", None)}


def damaged(folder: Path, part: str, name: str) -> None:
    path = folder / part / name
    path.write_bytes(path.read_bytes()[:-40])


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda folder: (folder / "masks" / "a.png").unlink(), "a in .* has no mask"),
        (lambda folder: (folder / "list.txt").write_text("a.png"), "a.png in .* has no image"),
        (lambda folder: damaged(folder, "masks", "a.png"), "truncated"),
        (lambda folder: cv2.imwrite(str(folder / "images" / "a.jpg"), np.zeros((9, 9), np.uint8)), "several images"),
        (
            lambda folder: cv2.imwrite(str(folder / "images" / "a.png"), np.zeros((20, 31), np.uint8)),
            r"size \(20, 31\), got \(20, 30\)",
        ),
        (lambda folder: (folder / "set.json").write_text('{"axes": "z"}'), "unknown: axes"),
        (lambda folder: (folder / "set.json").write_text('{"axis": "w"}'), "axis must be x, y or z"),
        (lambda folder: (folder / "set.json").write_text('{"axis": "xy"}'), "axis must be x, y or z"),
        (lambda folder: (folder / "set.json").write_text('{"window": [3, 3]}'), "window must be"),
        (lambda folder: (folder / "set.json").write_text('{"source": "nowhere"}'), "is no folder"),
        (lambda folder: (folder / "set.json").write_text("[]"), "does not say how"),
    ],
)
def test_what_is_wrong_with_a_set_is_said(tmp_path: Path, spoil, message: str) -> None:
    folder = make_set(tmp_path / "set", two_kidneys(np.uint8))
    spoil(folder)
    with pytest.raises(DataError, match=message):
        list(read_set(folder))


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"imgs": np.zeros((3, 4))}, "expected the keys imgs and gts or image and label, got imgs"),
        ({"imgs": np.zeros((3, 4)), "gts": np.zeros((3, 4, 5))}, "expected an image"),
        ({"imgs": np.zeros((3, 4, 7)), "gts": np.zeros((3, 4))}, "expected an image"),
        ({"imgs": np.array([["x"]]), "gts": np.zeros((1, 1))}, "expected an image"),
        ({"imgs": np.array([[None]]), "gts": np.zeros((1, 1))}, "cannot be read"),
        ({"imgs": np.full((3, 4), np.nan), "gts": np.zeros((3, 4))}, "NaN or infinite"),
        ({"imgs": np.zeros((3, 4)), "gts": np.full((3, 4), 0.5)}, "got fractions"),
        ({"imgs": np.zeros((3, 4)), "gts": np.full((3, 4), -1)}, "0 to 65535, got -1 to -1"),
        ({"imgs": np.zeros((3, 4)), "gts": np.full((3, 4), 70000)}, "0 to 65535, got 70000"),
    ],
)
def test_arrays_that_are_no_labelled_image(tmp_path: Path, arrays: dict[str, np.ndarray], message: str) -> None:
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(DataError, match=message):
        list(read_set(tmp_path))


def test_files_that_are_no_npz(tmp_path: Path) -> None:
    (tmp_path / "a.npz").write_bytes(b"PK no archive")
    with pytest.raises(DataError, match="is no NPZ file"):
        list(read_set(tmp_path))


def test_a_mask_that_lies_elsewhere_than_its_volume(tmp_path: Path) -> None:
    values, labels = ct()
    add_volume(tmp_path, "a", values, labels, np.diag([0.5, 2, 3, 1.0]))
    affine = np.diag([0.5, 2, 3, 1.0])
    affine[0, 3] = 0.2  # 0.4 voxels: rounded headers
    nibabel.save(nibabel.Nifti1Image(labels.astype(np.int16), affine), tmp_path / "masks" / "a.nii.gz")
    assert len(list(read_set(tmp_path))) == 8
    affine[0, 3] = 0.5
    nibabel.save(nibabel.Nifti1Image(labels.astype(np.int16), affine), tmp_path / "masks" / "a.nii.gz")
    with pytest.raises(DataError, match=r"lies 1\.0 voxels from its image"):
        list(read_set(tmp_path))


def test_shared_sets_hold_the_objects_that_their_readme_counts(shared_data: Path) -> None:
    counts = [len(image.objects(split_components=False)) for image in read_set(shared_data / "ct_kits19_mini")]
    assert (len(counts), sum(counts)) == (16, 30)
