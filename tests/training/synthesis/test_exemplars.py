import numpy as np
import pytest

from samsdk_training.data import DataError, LabelledImage
from samsdk_training.synthesis import LESIONS, SliceSummary, SynthesisConfig, choose_exemplars, summarise_slice
from samsdk_training.synthesis.exemplars import place_of, slice_levels


def slice_of(volume: str, index: int, patient: str = "", **areas: int) -> SliceSummary:
    numbers = {int(name[1:]): area for name, area in areas.items()}
    return SliceSummary(f"{volume}_z{index:03d}", patient or volume, volume, "z", index, numbers)


# By hand. a: the best slice shows three classes; b: two, but one that no slice of a has; c: one class, the largest.
SLICES = [
    slice_of("a", 10, c1=50, c2=50),
    slice_of("a", 20, c1=40, c2=40, c3=40),
    slice_of("a", 24, c1=60, c2=60, c3=60),
    slice_of("a", 40, c1=10, c2=10, c3=10),
    slice_of("b", 5, c1=100, c2=100),
    slice_of("b", 15, c1=10, c4=5),
    slice_of("c", 7, c1=900),
    slice_of("c", 8, c1=901),
    slice_of("c", 9),
]


def test_the_richest_slices_by_hand() -> None:
    # Three classes and the most pixels; then the class that is missing; then the volume not taken yet; then, all
    # volumes taken once, the most classes of those ten slices apart (a 20 is four from a 24).
    expected = ["a_z024", "b_z015", "c_z008", "a_z040", "b_z005"]
    for count in range(1, 6):
        assert choose_exemplars(SLICES, count, SynthesisConfig()) == expected[:count]


def test_without_covering_volumes_come_first() -> None:
    config = SynthesisConfig(cover_classes=False)
    assert choose_exemplars(SLICES, 3, config) == ["a_z024", "b_z005", "c_z008"]


def test_every_class_is_covered_as_soon_as_there_are_as_many_exemplars() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        slices = [
            slice_of(f"v{place // 6}", place % 6, **{f"c{c}": int(rng.integers(1, 99)) for c in rng.choice(9, 2)})
            for place in range(30)
        ]
        every = {name for one in slices for name in one.areas}
        chosen = set(choose_exemplars(slices, len(every), SynthesisConfig(spacing=1)))
        assert {name for one in slices if one.name in chosen for name in one.areas} == every


def test_slices_of_one_volume_keep_their_distance() -> None:
    line = [slice_of("a", index, c1=100 - index) for index in range(40)]
    assert choose_exemplars(line, 4, SynthesisConfig(spacing=10)) == ["a_z000", "a_z010", "a_z020", "a_z030"]
    with pytest.raises(DataError, match="only 4 exemplars lie 10 slices apart"):
        choose_exemplars(line, 5, SynthesisConfig(spacing=10))


def test_volumes_of_one_patient_count_as_one() -> None:
    slices = [
        slice_of("p1_flair", 5, "p1", c1=90),
        slice_of("p1_t1", 5, "p1", c1=80),
        slice_of("p2_t1", 5, "p2", c1=10),
    ]
    assert choose_exemplars(slices, 2, SynthesisConfig()) == ["p1_flair_z005", "p2_t1_z005"]


def test_quantiles_spread_over_sizes_and_volumes() -> None:
    slices = [slice_of(f"v{index % 4}", index, c1=1 + index) for index in range(40)]
    for seed in range(10):
        chosen = choose_exemplars(slices, 4, LESIONS, seed=seed)
        areas = {one.name: one.area for one in slices}
        # One of each quarter of the sizes, in their order, and each of another volume.
        assert [(areas[name] - 1) // 10 for name in chosen] == [0, 1, 2, 3]
        assert len({name[:2] for name in chosen}) == 4
    assert len({tuple(choose_exemplars(slices, 4, LESIONS, seed=seed)) for seed in range(10)}) > 3
    assert choose_exemplars(slices, 4, LESIONS, seed=3) == choose_exemplars(slices, 4, LESIONS, seed=3)


def test_a_slice_is_counted_as_it_is() -> None:
    label = np.array([[0, 2, 2], [0, 0, 5]], np.uint8)
    image = LabelledImage("liver_04_x012", label, label, False, patient="liver")
    assert summarise_slice(image) == SliceSummary("liver_04_x012", "liver", "liver_04", "x", 12, {2: 2, 5: 1})
    assert place_of("photo_12") == ("photo_12", "", 0)


def test_levels_go_from_the_first_slice_to_the_last() -> None:
    levels = slice_levels(["a_z010", "a_z020", "a_z012", "b_z003", "photo"])
    assert levels == {"a_z010": ("z", 0.0), "a_z012": ("z", 0.2), "a_z020": ("z", 1.0)}


@pytest.mark.parametrize("count", [0, 9])
def test_more_than_there_are_cannot_be_chosen(count: int) -> None:
    with pytest.raises(DataError, match=f"from 1 to the 8 images with a label, got {count}"):
        choose_exemplars(SLICES, count, SynthesisConfig())
