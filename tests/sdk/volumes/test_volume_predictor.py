import threading
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from monai.inferers import sliding_window_inference

import samsdk
from samsdk.errors import BackendError, CancelledError, ImageError, PromptError, VolumeError
from samsdk.volumes import Volume

MakePredictor = Callable[..., samsdk.VolumePredictor]
Network = Callable[[torch.Tensor], torch.Tensor]


def expected_labels(network: Network, given: np.ndarray, size: tuple[int, ...]) -> np.ndarray:
    """MONAI's blended logits of what the network sees, carried to the volume's own grid."""
    windows = torch.from_numpy(given)[None, None]
    logits = sliding_window_inference(windows, (16, 12, 20), 1, network, overlap=0.5, mode="gaussian")
    if logits.shape[2:] != size:
        logits = torch.nn.functional.interpolate(logits, size=size, mode="trilinear")
    return logits[0].argmax(dim=0).numpy()


def zscore(array: np.ndarray) -> np.ndarray:
    signal = array[array != 0].astype(np.float64)
    return np.where(array == 0, 0, (array - signal.mean()) / signal.std()).astype(np.float32)


def assert_alike(found: np.ndarray, expected: np.ndarray) -> None:
    """Equal up to voxels where two classes are as likely as each other, to the last place of a float."""
    assert found.shape == expected.shape
    assert set(np.unique(expected)) == {0, 1, 2}
    assert np.count_nonzero(found != expected) <= expected.size * 1e-4


@pytest.mark.parametrize("batch", [1, 4])
def test_labels_are_those_of_monais_sliding_window(
    make_predictor: MakePredictor, torch_network: Network, volume: Volume, batch: int
) -> None:
    result = make_predictor().segment(volume, batch=batch)
    assert result.label_map.dtype == np.uint8
    assert_alike(result.label_map, expected_labels(torch_network, zscore(volume.array), volume.shape))
    assert result.labels == {"1": "kidney", "2": "tumour"}
    assert result.provider == "CPUExecutionProvider"
    assert result.bundle.startswith("organs3d@")
    assert result.volumes_ml()["kidney"] == pytest.approx(np.count_nonzero(result.label_map == 1) * 1.6e-3)
    assert 0 < result.timings["run"] <= result.timings["total"]


def test_resampled_logits_come_back_to_the_volumes_grid(
    make_predictor: MakePredictor, torch_network: Network, volume: Volume
) -> None:
    predictor = make_predictor(spacing=[1.5, 1.2, 1.1])
    shape = predictor.plan(volume).shape
    assert shape == (49, 34, 39)
    given = torch.nn.functional.interpolate(
        torch.from_numpy(zscore(volume.array))[None, None], size=shape, mode="trilinear"
    )[0, 0].numpy()
    result = predictor.segment(volume)
    assert_alike(result.label_map, expected_labels(torch_network, given, volume.shape))


@pytest.mark.parametrize("spacing", [None, [1.5, 1.2, 1.1], [1.0, 2.0, 0.5]])
def test_strips_change_nothing(
    make_predictor: MakePredictor, volume: Volume, monkeypatch: pytest.MonkeyPatch, spacing: list[float] | None
) -> None:
    predictor = make_predictor(spacing=spacing)
    whole = predictor.segment(volume)
    monkeypatch.setattr("samsdk.volumes.sliding.WindowPlan.of.__func__.__defaults__", (1, 60_000))
    plan = predictor.plan(volume)
    assert len(plan.strips) > 2
    np.testing.assert_array_equal(predictor.segment(volume).label_map, whole.label_map)


OBLIQUE = np.array([[0.1, 0.05, -1.9, 40], [-0.78, 0.1, 0.2, 10], [0.1, 0.99, 0.1, -20], [0, 0, 0, 1.0]])


def test_an_oblique_volume_is_turned_and_its_labels_turned_back(make_predictor: MakePredictor, volume: Volume) -> None:
    # z runs to the left, x to the back, y to the head.
    oblique = Volume(volume.array, OBLIQUE)
    turned = np.ascontiguousarray(volume.array.transpose(1, 2, 0)[:, ::-1, ::-1])
    expected = make_predictor().segment(Volume.of(turned)).label_map
    found = make_predictor(orientation="RAS").segment(oblique)
    np.testing.assert_array_equal(found.label_map.transpose(1, 2, 0)[:, ::-1, ::-1], expected)
    np.testing.assert_array_equal(found.grid.affine, OBLIQUE)


def test_a_file_in_and_a_file_out(make_predictor: MakePredictor, volume: Volume, tmp_path: Path) -> None:
    """int16 with an intercept, oblique: the labels lie on the file's own grid."""
    shifted = (volume.array + 1024).T
    image = nibabel.Nifti1Image(shifted, OBLIQUE)
    path = tmp_path / "in.nii"
    nibabel.save(image, path)
    content = bytearray(path.read_bytes())
    content[112:120] = np.array([1, -1024], "<f4").tobytes()
    path.write_bytes(content)
    predictor = make_predictor(orientation="RAS")
    result = predictor.segment(str(path))
    result.save(tmp_path / "out.nii.gz")
    written, stored = nibabel.load(tmp_path / "out.nii.gz"), nibabel.load(path)
    np.testing.assert_array_equal(written.affine, stored.affine)
    expected = predictor.segment(Volume(volume.array, OBLIQUE)).label_map
    np.testing.assert_array_equal(np.asarray(written.dataobj), expected.T)


@pytest.mark.parametrize("shape", [(1, 35, 53), (5, 6, 7), (37, 3, 53)])
@pytest.mark.parametrize("spacing", [None, [0.7, 1.2, 1.1]])
def test_slices_and_volumes_smaller_than_a_window(
    make_predictor: MakePredictor,
    torch_network: Network,
    volume: Volume,
    shape: tuple[int, int, int],
    spacing: list[float] | None,
) -> None:
    depth, height, width = shape
    small = Volume.of(volume.array[:depth, 6 : 6 + height, :width], volume.spacing)
    predictor = make_predictor(spacing=spacing, orientation="RAS")
    seen = []
    result = predictor.segment(small, progress=lambda done, every: seen.append((done, every)))
    given = torch.from_numpy(zscore(small.array))[None, None]
    given = torch.nn.functional.interpolate(given, size=predictor.plan(small).shape, mode="trilinear")
    assert_alike(result.label_map, expected_labels(torch_network, given[0, 0].numpy(), shape))
    assert seen[-1] == (predictor.plan(small).windows,) * 2


def test_progress_counts_windows_and_cancel_stops_them(make_predictor: MakePredictor, volume: Volume) -> None:
    predictor, cancel, seen = make_predictor(), threading.Event(), []
    windows = predictor.plan(volume).windows
    assert windows == 4 * 6 * 5

    def watch(done: int, every: int) -> None:
        seen.append((done, every))
        if done >= 7:
            cancel.set()

    with pytest.raises(CancelledError, match=f"after 8 of {windows} windows"):
        predictor.segment(volume, batch=4, progress=watch, cancel=cancel)
    assert seen == [(4, windows), (8, windows)]


def test_what_is_no_volume_is_named(make_predictor: MakePredictor, tmp_path: Path) -> None:
    predictor = make_predictor()
    picture = np.zeros((40, 40), np.uint8)
    for given in (picture, "scan.png", b"PNG", None):
        with pytest.raises(VolumeError, match=r"segments volumes, not images.*samsdk\.Volume"):
            predictor.segment(given)
    with pytest.raises(VolumeError, match=r"Volume\.of\(array, spacing\)"):
        predictor.segment(np.zeros((5, 6, 7)))
    for call in (predictor.encode, predictor.set_image):
        with pytest.raises(VolumeError, match="segments volumes, not images"):
            call(picture)
    with pytest.raises(VolumeError, match="segments volumes, not images"):
        samsdk.Predictor(predictor.bundle, device="cpu", uncertified="onnxruntime-cpu").segment(picture)
    with pytest.raises(VolumeError, match="is no NIfTI volume"):
        predictor.segment(tmp_path / "absent.nii.gz")


def test_prompts_and_batches_that_make_no_sense(make_predictor: MakePredictor, volume: Volume) -> None:
    predictor = make_predictor()
    with pytest.raises(PromptError, match="takes no prompt, got box"):
        predictor.segment(volume, box=(0, 0, 5, 5))
    # What is no volume comes first: without the box it would be none either.
    with pytest.raises(VolumeError, match="segments volumes, not images"):
        predictor.segment(np.zeros((40, 40), np.uint8), box=(0, 0, 5, 5))
    with pytest.raises(PromptError, match="leave multimask, zoom and variations out"):
        predictor.segment(volume, zoom=True)
    for batch in (0, True, 1.5):
        with pytest.raises(VolumeError, match="at least 1"):
            predictor.segment(volume, batch=batch)


def test_a_volume_to_a_bundle_for_images(predictor: samsdk.Predictor, volume: Volume) -> None:
    for call in (lambda: predictor.segment(volume, box=(0, 0, 5, 5)), lambda: predictor.encode(volume)):
        with pytest.raises(ImageError, match=r"got a volume \(37, 41, 53\).*samsdk\.propagation\.propagate"):
            call()
    with pytest.raises(ImageError, match=r"got a NIfTI volume.*bundle for volumes"):
        predictor.segment("scan.nii.gz", box=(0, 0, 5, 5))


def test_no_orientation_is_warned_of_only_where_it_counts(make_predictor: MakePredictor, volume: Volume) -> None:
    unknown = Volume(volume.array, volume.affine, oriented=False)
    with pytest.warns(UserWarning, match="how the patient lies"):
        make_predictor(orientation="RAS").segment(unknown)
    make_predictor().segment(unknown)


def test_an_engine_that_answers_nan_is_caught(make_predictor: MakePredictor, volume: Volume) -> None:
    weights = np.full((2, 1, 5, 5, 5), np.nan, np.float32)
    with pytest.raises(BackendError, match="holds NaN"):
        make_predictor(weights=weights).segment(volume)


def test_a_network_of_other_classes_than_the_manifest_names_is_caught(
    make_predictor: MakePredictor, volume: Volume
) -> None:
    predictor = make_predictor()
    predictor.manifest.classes["3"] = "cyst"
    with pytest.raises(BackendError, match=r"\(1, 3, 16, 12, 20\).*expected logits of 4 classes"):
        predictor.segment(volume)


def test_memory_is_as_planned(make_predictor: MakePredictor) -> None:
    """What numpy allocates, measured; ONNX Runtime's own is beside it."""
    weights = np.zeros((9, 1, 5, 5, 5), np.float32)
    predictor = make_predictor(weights=weights, crop=[32, 32, 32], spacing=[1.0, 1.0, 1.0])
    given = Volume.of(np.ones((60, 150, 140), np.int16), (1.5, 0.8, 0.8))
    plan = predictor.plan(given)
    predictor.warm_up()
    tracemalloc.start()
    predictor.segment(given)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert 0.5 * plan.peak_bytes < peak <= 1.05 * plan.peak_bytes


def test_more_classes_than_8_bits_hold(make_predictor: MakePredictor, volume: Volume) -> None:
    weights = np.zeros((300, 1, 5, 5, 5), np.float32)
    weights[299, 0, 2, 2, 2] = 1
    small = Volume.of(volume.array[:16, 6:18, :20])
    labels = make_predictor(weights=weights).segment(small).label_map
    assert labels.dtype == np.uint16
    np.testing.assert_array_equal(labels == 299, zscore(small.array) > 0)
