import numpy as np
import pytest
from monai.transforms import NormalizeIntensity

from samsdk.volumes.intensity import VoxelIntensity

CT = {"rule": "window_zscore", "lowest": -991, "highest": 362, "mean": 50, "std": 141.0}


def test_zscore_of_what_is_not_zero_is_monais() -> None:
    array = np.random.default_rng(0).normal(300, 80, (7, 9, 11)).astype(np.float32)
    array[array < 280] = 0
    expected = NormalizeIntensity(nonzero=True)(array)
    found = VoxelIntensity("zscore_nonzero").apply(array)
    np.testing.assert_allclose(found, np.asarray(expected), atol=1e-5)
    assert (found[array == 0] == 0).all()


@pytest.mark.parametrize("value", [0, 7])
def test_a_constant_volume_divides_by_nothing(value: int) -> None:
    found = VoxelIntensity("zscore_nonzero").apply(np.full((3, 3, 3), value, np.uint8))
    np.testing.assert_array_equal(found, 0)


def test_a_window_of_hounsfield_units() -> None:
    rule = VoxelIntensity.of(CT)
    array = np.array([[[-1024, -991, 0, 50, 191, 362, 3071]]], np.int16)
    found = rule.apply(array)[0, 0]
    np.testing.assert_allclose(found, (np.clip(array[0, 0], -991, 362) - 50) / 141, rtol=1e-6)
    assert found.dtype == np.float32
    # Outside of the volume is air.
    assert rule.scale(array).fill == pytest.approx(float(found[0]))
    assert rule.to_dict() == CT


def test_large_volumes_keep_their_places() -> None:
    # In float32 the sum of these would be off, and the difference of two sums of squares meaningless.
    array = np.full((40, 100, 100), 30000, np.int16)
    array[::2] += 2
    scale = VoxelIntensity("zscore_nonzero").scale(array)
    assert (scale.mean, scale.std) == (30001.0, 1.0)


@pytest.mark.parametrize(
    ("rule", "text"),
    [
        ({"rule": "minmax"}, "expected: zscore_nonzero, window_zscore"),
        ({}, "intensity.rule is None"),
        ({"rule": "zscore_nonzero", "mean": 3}, "takes no numbers, got mean"),
        ({"rule": "zscore_nonzero", "median": 3}, "unknown fields median"),
        ({k: v for k, v in CT.items() if k != "std"}, "finite numbers for std"),
        ({**CT, "std": 0}, "positive std"),
        ({**CT, "lowest": 400}, "lowest below highest"),
        ({**CT, "mean": float("nan")}, "finite numbers for mean"),
        ({**CT, "highest": True}, "finite numbers for highest"),
        ({**CT, "highest": "300"}, "finite numbers for highest"),
    ],
)
def test_rules_that_make_no_sense(rule: dict[str, object], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        VoxelIntensity.of(rule)
