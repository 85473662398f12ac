import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from monai.data.utils import compute_importance_map, dense_patch_slices
from monai.inferers import sliding_window_inference
from monai.inferers.utils import _get_scan_interval

from samsdk.volumes import Volume
from samsdk.volumes.blending import blended_planes
from samsdk.volumes.grid import NetworkGrid, Sampler
from samsdk.volumes.intensity import VoxelIntensity
from samsdk.volumes.preprocessing import VolumePreprocessing
from samsdk.volumes.sliding import WindowPlan, window_starts, window_weights

Network = Callable[[torch.Tensor], torch.Tensor]


@pytest.mark.parametrize("blending", ["gaussian", "constant"])
@pytest.mark.parametrize("crop", [(16, 12, 20), (5, 32, 9)])
def test_weights_are_monais(blending: str, crop: tuple[int, int, int]) -> None:
    expected = compute_importance_map(crop, mode=blending).numpy()
    np.testing.assert_allclose(window_weights(crop, blending), expected, rtol=2e-6)


@pytest.mark.parametrize("size", [16, 17, 31, 32, 33, 47, 48, 100])
@pytest.mark.parametrize("overlap", [0, 0.25, 0.5, 0.8, 0.99])
def test_windows_start_where_monais_do(size: int, overlap: float) -> None:
    crop = 16
    interval = _get_scan_interval((size,), (crop,), 1, (overlap,))
    expected = [one[0].start for one in dense_patch_slices((size,), (crop,), interval)]
    assert list(window_starts(size, crop, overlap)) == expected
    assert window_starts(7, crop, overlap) == (0,)


def monai_logits(network: Network, array: np.ndarray, rules: VolumePreprocessing) -> np.ndarray:
    scale = rules.intensity.scale(array)
    given = torch.from_numpy(scale.apply(array))[None, None]
    logits = sliding_window_inference(
        given,
        rules.crop,
        2,
        network,
        overlap=rules.overlap,
        mode=rules.blending,
        cval=scale.fill,
    )
    return logits[0].numpy()


def our_logits(
    network: Network, array: np.ndarray, rules: VolumePreprocessing, batch: int, most: int
) -> tuple[np.ndarray, WindowPlan]:
    grid = NetworkGrid.of(Volume.of(array), rules)
    plan = WindowPlan.of(grid, rules, 3, batch, most)
    scale = rules.intensity.scale(array)
    voxels = array.transpose(plan.order)
    sampler = Sampler(voxels, scale, voxels.shape)
    weights = window_weights(rules.crop, rules.blending)
    run = lambda windows: network(torch.from_numpy(windows)).numpy()  # noqa: E731
    strips = []
    for strip in plan.strips:
        planes = [one.copy() for one in blended_planes(plan, strip, sampler, scale.fill, weights, run)]
        strips.append(np.concatenate(planes, axis=1))
    found = np.concatenate(strips, axis=2)
    return found.transpose(0, *(1 + np.argsort(plan.order))), plan


@pytest.mark.parametrize(
    ("shape", "batch", "most"),
    [
        ((37, 41, 53), 1, 2**30),
        ((37, 41, 53), 3, 2**30),
        ((37, 41, 53), 2, 40_000),  # several strips
        ((53, 20, 30), 4, 2**30),  # streams along another axis
        ((16, 12, 20), 1, 2**30),  # exactly one window
        ((9, 40, 13), 1, 2**30),  # shorter than the window on two axes
        ((3, 5, 7), 1, 2**30),
        ((1, 50, 60), 2, 30_000),  # one slice
    ],
)
@pytest.mark.parametrize("blending", ["gaussian", "constant"])
def test_blended_logits_are_monais(
    torch_network: Network, shape: tuple[int, int, int], batch: int, most: int, blending: str
) -> None:
    intensity = VoxelIntensity("window_zscore", -150, 250, 40, 90)
    rules = VolumePreprocessing((16, 12, 20), intensity, overlap=0.4, blending=blending)
    array = np.random.default_rng(0).normal(0, 200, shape).astype(np.float32)
    found, plan = our_logits(torch_network, array, rules, batch, most)
    np.testing.assert_allclose(found, monai_logits(torch_network, array, rules), atol=2e-5)
    assert (len(plan.strips) > 1) == (most < 2**30)


def test_a_strip_runs_only_the_windows_that_reach_it() -> None:
    rules = VolumePreprocessing((16, 16, 16), VoxelIntensity("zscore_nonzero"))
    grid = NetworkGrid.of(Volume.of(np.zeros((64, 64, 64), np.uint8)), rules)
    whole = WindowPlan.of(grid, rules, 3)
    assert (whole.windows, len(whole.strips)) == (7**3, 1)
    plane = 4 * 4 * 16 * 64 * 64
    halves = WindowPlan.of(grid, rules, 3, most_logits=plane // 2)
    # The window in the middle reaches into both.
    assert halves.strips == ((0, 32), (32, 64))
    assert halves.windows == 7 * 8 * 7
    assert halves.peak_bytes < whole.peak_bytes


def test_the_streamed_axis_is_the_cheapest() -> None:
    rules = VolumePreprocessing((96, 96, 96), VoxelIntensity("zscore_nonzero"))
    grid = NetworkGrid.of(Volume.of(np.broadcast_to(np.int16(0), (300, 512, 480))), rules)
    plan = WindowPlan.of(grid, rules, 14)
    assert plan.order == (1, 2, 0)
    held = 4 * 15 * 96 * 480 * 300
    assert held < plan.peak_bytes < 2 * held
    assert plan.windows == math.prod(len(window_starts(side, 96, 0.5)) for side in (300, 512, 480))
