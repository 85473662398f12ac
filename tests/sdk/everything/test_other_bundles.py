"""Bundles that are not asked point by point."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

import samsdk
from samsdk.errors import PromptError
from samsdk.everything import EverythingSettings, segment_everything
from samsdk.splitting import split_instances


def test_a_bundle_that_prompts_itself_is_asked_once(auto_bundle: Path, cell: NDArray[np.uint8]) -> None:
    automatic = samsdk.load(auto_bundle, device="cpu")
    result = segment_everything(automatic, cell, EverythingSettings(min_mask_region_area=30))
    alone = automatic.segment(cell)
    assert isinstance(alone, samsdk.AutoResult)
    assert alone.splitting is not None
    wanted = split_instances(alone.mask, smallest=alone.splitting.smallest, depth=alone.splitting.depth)
    wanted = np.where(np.bincount(wanted.ravel())[wanted] >= 30, wanted, 0)
    assert result.points == len(alone.points)
    assert result.count == len(np.unique(wanted)) - 1 > 0
    assert np.array_equal(result.label_map > 0, wanted > 0)
    pairs = {(int(one), int(two)) for one, two in zip(result.label_map.ravel(), wanted.ravel(), strict=True)}
    assert len(pairs) == result.count + 1


def test_a_bundle_without_points_refuses(semantic_bundle: Path, cell: NDArray[np.uint8]) -> None:
    with pytest.raises(PromptError, match="takes no points"):
        segment_everything(samsdk.load(semantic_bundle, device="cpu"), cell)
