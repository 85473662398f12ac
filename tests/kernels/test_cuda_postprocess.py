"""The kernel that makes masks, held bit for bit against `samsdk.masks`; on the host, so no GPU."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from samsdk.masks import upsample_region
from samsdk.transforms import Frame, Preprocessing
from samsdk_kernels.compiler import PROGRAMS, TARGETS, compile_ahead, find_nvcc
from samsdk_kernels.launch import Kernels

SIZES = [
    *((1, 1), (1, 31), (1, 32), (1, 33), (200, 1), (3, 300), (7, 64), (64, 64), (40, 23)),
    *((128, 128), (255, 257), (300, 200), (199, 301), (480, 641), (2, 2000), (600, 95)),
]


def blobs(side: int, seed: int, masks: int = 3) -> NDArray[np.float32]:
    """Logits [M, L, L] with a few smooth objects, some of which run into the border, and some grain."""
    rng = np.random.default_rng(seed)
    coarse = rng.normal(-0.7, 1.0, (masks, 6, 6)).astype(np.float32)
    smooth = np.stack([cv2.resize(one, (side, side), interpolation=cv2.INTER_CUBIC) for one in coarse])
    return (8 * smooth + rng.normal(0, 0.5, smooth.shape)).astype(np.float32)


def check(kernels: Kernels, logits: NDArray[np.float32], frame: Frame, threshold: float = 0.0) -> int:
    """Compare all that the kernel gives with `samsdk.masks`; returns the foreground pixels."""
    expected = np.stack([upsample_region(one, frame, threshold).full() for one in logits])
    packed = kernels.postprocess(logits, frame, threshold)
    height, width = frame.original_size
    words = packed.words.numpy()
    assert words.shape == (len(logits), height, -(-width // 32))
    padded = np.pad(expected, ((0, 0), (0, 0), (0, -width % 32)))
    np.testing.assert_array_equal(words.view(np.uint8), np.packbits(padded, axis=2, bitorder="little"))
    regions = packed.regions()
    for index, mask in enumerate(expected):
        rows, columns = np.nonzero(mask)
        box = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1) if len(rows) else None
        assert (packed.areas[index], packed.boxes[index]) == (len(rows), box)
        np.testing.assert_array_equal(regions[index].full(), mask)
        assert regions[index].box == packed.boxes[index]
    return int(expected.sum())


@pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[0]}x{size[1]}")
def test_equals_the_runtime_s_masks(host_kernels: Kernels, size: tuple[int, int]) -> None:
    frame = Preprocessing(256).frame(size)
    assert check(host_kernels, blobs(64, seed=sum(size), masks=4), frame)


@pytest.mark.parametrize("seed", range(30))
def test_equals_the_runtime_s_masks_for_random_sizes(host_kernels: Kernels, seed: int) -> None:
    rng = np.random.default_rng(seed)
    height, width = rng.integers(1, int(rng.choice([60, 300, 700])), 2).tolist()
    side = int(rng.choice([32, 48, 64, 100]))
    preprocessing = Preprocessing(int(rng.choice([64, 100, 256, 1024])))
    left, top = int(rng.integers(0, width)), int(rng.integers(0, height))
    window = (left, top, int(rng.integers(left + 1, width + 1)), int(rng.integers(top + 1, height + 1)))
    for part in (None, window):
        check(host_kernels, blobs(side, seed), preprocessing.frame((height, width), part))


@pytest.mark.parametrize("threshold", [-2.5, -0.1, 0.3, 4.0])
def test_thresholds_as_the_runtime_does(host_kernels: Kernels, threshold: float) -> None:
    check(host_kernels, blobs(64, seed=5), Preprocessing(256).frame((301, 413)), threshold)


def test_a_logit_at_the_threshold_is_background(host_kernels: Kernels) -> None:
    logits = np.zeros((1, 16, 16), np.float32)
    frame = Preprocessing(64).frame((64, 64))
    assert host_kernels.postprocess(logits, frame).areas == (0,)
    logits[0, 4, 9] = np.nextafter(np.float32(0), np.float32(1))
    assert check(host_kernels, logits, frame) > 0


def test_empty_and_full_masks(host_kernels: Kernels) -> None:
    logits = np.stack([np.full((64, 64), value, np.float32) for value in (-1, 1)])
    packed = host_kernels.postprocess(logits, Preprocessing(256).frame((70, 45)))
    assert packed.areas == (0, 70 * 45)
    assert packed.boxes == (None, (0, 0, 45, 70))
    assert packed.regions()[0].inside.size == 0
    assert packed.regions()[1].full().all()


def test_a_mask_of_a_large_image(host_kernels: Kernels) -> None:
    check(host_kernels, blobs(64, seed=6, masks=1), Preprocessing(256).frame((3, 20_000)))


@pytest.mark.skipif(find_nvcc() is None, reason="no CUDA compiler (nvcc)")
def test_compiles_for_every_target(tmp_path: Path) -> None:
    contents = [compile_ahead("postprocess", target, tmp_path).read_bytes() for target in TARGETS]
    assert len(set(contents)) == len(TARGETS)
    assert all(content.startswith(b"\x7fELF") for content in contents)
    assert all(kernel.encode() in content for kernel in PROGRAMS["postprocess"] for content in contents)
