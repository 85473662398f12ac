"""Random pictures that stand in for the images a base was trained on."""

import numpy as np

from samsdk_training.recipes.dead_leaves import dead_leaves


def test_pictures_come_from_the_generator_alone_and_differ() -> None:
    pictures = [dead_leaves(np.random.default_rng(seed), 64) for seed in range(12)]
    assert all(np.array_equal(one, dead_leaves(np.random.default_rng(seed), 64)) for seed, one in enumerate(pictures))
    assert len({one.tobytes() for one in pictures}) == 12
    assert all(one.shape == (64, 64, 3) and one.dtype == np.uint8 for one in pictures)
    grey = [bool((one == one[..., :1]).all()) for one in pictures]
    assert 0 < sum(grey) < 12


def test_pictures_are_of_flat_leaves_and_sharp_edges() -> None:
    """Unlike noise or a gradient: most neighbours are alike, and some are far apart."""
    steps = np.concatenate(
        [
            np.abs(np.diff(dead_leaves(np.random.default_rng(s), 128)[..., 0].astype(int), axis=1)).ravel()
            for s in range(8)
        ]
    )
    assert np.median(steps) < 16
    assert np.percentile(steps, 99.5) > 4 * np.median(steps)
