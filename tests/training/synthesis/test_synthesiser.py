from collections.abc import Callable
from dataclasses import replace

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from skimage import data

from samsdk_training.data import DataError, LabelledImage
from samsdk_training.synthesis import IntensityChange, SynthesisConfig, Synthesiser, SyntheticImage

Build = Callable[..., SynthesisConfig]
Grounds = dict[str, NDArray[np.uint8]]
GREY = {1: 150, 2: 190, 3: 230}


def make(exemplar: LabelledImage, grounds: Grounds, config: SynthesisConfig, seed: int = 0) -> Synthesiser:
    return Synthesiser([exemplar], list(grounds), grounds.__getitem__, config, seed=seed)


@pytest.mark.parametrize("groups", ["class", "component", "together"])
def test_every_label_lies_on_its_own_object(
    exemplar: LabelledImage, grounds: Grounds, steady: Build, groups: str
) -> None:
    """Without changes of intensity the pixels tell what they are of; the image knows nothing of the label."""
    synthesiser = make(exemplar, grounds, steady(groups=groups, elastic=1.0))
    places = []
    for index in range(40):
        made = synthesiser.sample(index)
        assert made.background is not None
        ground = int(grounds[made.background][0, 0])
        assert (made.image[made.label == 0] == ground).all()
        for value, grey in GREY.items():
            pixels = made.image[made.label == value].astype(int)
            assert len(pixels) >= 0.2 * (exemplar.label == value).sum()
            # The outermost pixels of an object blend with what lies beside it in the exemplar.
            edge = cv2.erode((made.label == value).astype(np.uint8), np.ones((3, 3), np.uint8)) == 0
            inner = made.image[(made.label == value) & ~edge].astype(int)
            assert (np.abs(inner - grey) <= 1).mean() > 0.97
            assert pixels.min() >= 49
        assert set(np.unique(made.label)) <= {0, 1, 2, 3}
        places.append(made.label)
    assert len({place.tobytes() for place in places}) == 40


def test_objects_stay_about_their_centroid_and_change_their_size(
    exemplar: LabelledImage, grounds: Grounds, steady: Build
) -> None:
    synthesiser = make(exemplar, grounds, steady())
    areas = []
    for index in range(60):
        label = synthesiser.sample(index).label == 3
        rows, columns = np.nonzero(label)
        areas.append(label.sum())
        # Others may lie on it, and elastic noise moves it by a pixel or so.
        assert abs(columns.mean() - 60) < 8
        assert abs(rows.mean() - 80) < 8
    circle = (exemplar.label == 3).sum()
    assert min(areas) < 0.6 * circle
    assert max(areas) > 1.8 * circle


def test_a_number_is_an_image_whatever_was_asked_before(exemplar: LabelledImage, grounds: Grounds) -> None:
    one, other = (make(exemplar, grounds, SynthesisConfig(), seed=4) for _ in range(2))
    backwards = {index: other.sample(index) for index in reversed(range(12))}
    for index in range(12):
        made = one.sample(index)
        assert np.array_equal(made.image, backwards[index].image)
        assert np.array_equal(made.label, backwards[index].label)
        assert (made.exemplar, made.background) == (backwards[index].exemplar, backwards[index].background)
    another = make(exemplar, grounds, SynthesisConfig(), seed=5)
    assert not np.array_equal(another.sample(0).image, one.sample(0).image)


def test_later_objects_cover_earlier_ones_in_any_order(grounds: Grounds, steady: Build) -> None:
    label = np.zeros((96, 120), np.uint8)
    label[30:60, 30:60], label[30:60, 60:90] = 1, 2
    image = np.where(label == 1, 150, np.where(label == 2, 190, 50)).astype(np.uint8)
    still = {"stretches": (1, 1), "angles": (0, 0), "shears": (0, 0), "elastic": 0}
    synthesiser = make(LabelledImage("e", image, label, False), grounds, steady(sizes=(1.5, 1.5), **still))
    owners = set()
    for index in range(20):
        made = synthesiser.sample(index)
        # Both have grown by half: columns 54 to 66 belong to both.
        owner = np.unique(made.label[45, 54:66])
        assert len(owner) == 1
        assert abs(int(made.image[45, 60]) - GREY[int(owner[0])]) <= 1
        owners.add(int(owner[0]))
    assert owners == {1, 2}


def test_intensities_of_object_and_ground_are_independent(exemplar: LabelledImage, grounds: Grounds) -> None:
    quiet = {"gammas": (1, 1), "noise": 0, "blur": 0}
    config = SynthesisConfig(
        foreground=IntensityChange(contrasts=(0.8, 0.8), brightnesses=(-0.1, 0.1), **quiet),  # type: ignore[arg-type]
        background=IntensityChange(contrasts=(1.5, 1.5), brightnesses=(0, 0.3), **quiet),  # type: ignore[arg-type]
        same_image=0,
    )
    synthesiser = make(exemplar, grounds, config)
    changes = []
    for made in map(synthesiser.sample, range(80)):
        assert made.background is not None
        under = made.image[made.label == 0]
        assert (under == under[0]).all()
        brightness = under[0] - 1.5 * grounds[made.background][0, 0]
        assert -1 <= brightness <= 0.3 * 255 + 1
        tones = [np.median(made.image[made.label == value]) - 0.8 * GREY[value] for value in GREY]
        assert max(map(abs, tones)) <= 26.5
        changes.append([brightness, *tones])
    correlation = np.corrcoef(np.array(changes).T)
    assert np.abs(correlation - np.eye(4)).max() < 0.4


def test_draws_that_lose_a_class_are_rejected(exemplar: LabelledImage, grounds: Grounds, steady: Build) -> None:
    away = {"shift": 1.0, "shifts": (0.0, 0.9), "elastic": 0.0}
    kept = make(exemplar, grounds, steady(**away))
    areas = [np.bincount(kept.sample(index).label.ravel(), minlength=4)[1:] for index in range(30)]
    asked = np.bincount(exemplar.label.ravel())[1:]
    assert (np.array(areas) >= 0.2 * asked).all()
    # With one attempt only, most draws lose some; then all stays on the exemplar's own image, where it was.
    once = make(exemplar, grounds, steady(attempts=1, **away))
    fallen = [made for made in map(once.sample, range(30)) if made.background == "exemplar"]
    assert len(fallen) > 10
    for made in fallen:
        assert np.array_equal(made.label, exemplar.label)
        assert np.array_equal(made.image, exemplar.image)


def test_objects_stay_inside_the_body(exemplar: LabelledImage, steady: Build) -> None:
    body = np.zeros((96, 120), np.uint8)
    body[:, :70] = 40
    move = {"shift": 1.0, "shifts": (-0.5, 0.5), "groups": "together", "largest_loss": 1.0}
    share = {}
    for limit in (1.0, 0.1):
        synthesiser = make(exemplar, {"half": body}, steady(largest_outside=limit, **move))
        made = [one for one in map(synthesiser.sample, range(20)) if one.background == "half"]
        share[limit] = [((one.label > 0) & (body == 0)).sum() / (one.label > 0).sum() for one in made]
    assert max(share[1.0]) > 0.3
    assert len(share[0.1]) > 0
    assert max(share[0.1]) <= 0.1


def test_backgrounds_are_others_and_all_are_used(exemplar: LabelledImage, grounds: Grounds, steady: Build) -> None:
    pool = {"ground10": grounds["ground10"], "exemplar": exemplar.image, "ground20": grounds["ground20"]}
    drawn = [make(exemplar, pool, steady()).sample(index).background for index in range(40)]
    assert set(drawn) == {"ground10", "ground20"}
    own = [make(exemplar, pool, steady(same_image=0.5)).sample(index).background for index in range(60)]
    assert 0.3 < own.count("exemplar") / 60 < 0.7
    alone = make(exemplar, {}, steady()).sample(0)
    assert alone.background == "exemplar"


def test_the_exemplar_as_background_keeps_its_labels(exemplar: LabelledImage, grounds: Grounds, steady: Build) -> None:
    small = {"same_image": 1.0, "sizes": (0.6, 0.6), "elastic": 0.0}
    made = make(exemplar, grounds, steady(**small)).sample(0)
    # Shrunk objects lie on the larger ones that they come from: all pixels keep their label.
    assert np.array_equal(made.label, exemplar.label)
    noisy = make(exemplar, grounds, steady(known_labels=False, **small)).sample(0)
    assert 0.2 < (noisy.label > 0).sum() / (exemplar.label > 0).sum() < 0.6


def test_what_is_pasted_covers_the_labels_below(exemplar: LabelledImage, steady: Build) -> None:
    other = LabelledImage("other", np.full((48, 60), 90, np.uint8), np.full((48, 60), 9, np.uint8), False)
    synthesiser = Synthesiser([exemplar, other], ["exemplar", "other"], lambda _: other.image, steady())
    made = [
        one for one in map(synthesiser.sample, range(20)) if (one.exemplar, one.background) == ("exemplar", "other")
    ]
    assert made
    for one in made:
        assert set(np.unique(one.label)) == {1, 2, 3, 9}
        assert (one.image[one.label == 9] == 90).all()
        inner = cv2.erode((one.label == 2).astype(np.uint8), np.ones((5, 5), np.uint8)) > 0
        assert (np.abs(one.image[inner].astype(int) - 190) <= 1).all()


def test_other_sizes_and_colours_of_background(exemplar: LabelledImage, steady: Build) -> None:
    colour = np.ascontiguousarray(data.astronaut()[:192, :240])
    made = make(exemplar, {"colour": colour}, steady()).sample(1)
    assert made.image.shape == (96, 120, 3)
    expected = cv2.resize(colour, (120, 96), interpolation=cv2.INTER_AREA)
    assert np.array_equal(made.image[made.label == 0], expected[made.label == 0])
    inner = cv2.erode((made.label == 2).astype(np.uint8), np.ones((5, 5), np.uint8)) > 0
    assert (np.abs(made.image[inner].astype(int) - 190) <= 1).all()
    # Grey in three channels is grey.
    triple = np.repeat(np.full((96, 120, 1), 20, np.uint8), 3, axis=2)
    assert make(exemplar, {"triple": triple}, steady()).sample(0).image.ndim == 2


def test_sixteen_bits_are_brought_to_eight(exemplar: LabelledImage, grounds: Grounds, steady: Build) -> None:
    wide = replace(exemplar, image=exemplar.image.astype(np.uint16) * 16)
    low, high = int(wide.image.min()), int(wide.image.max())
    expected = np.rint((wide.image - low) * (255 / (high - low))).astype(np.uint8)
    assert np.array_equal(make(wide, grounds, steady()).exemplar("exemplar").image, expected)


def test_a_feathered_edge_lies_on_the_labels_edge(grounds: Grounds, steady: Build) -> None:
    label = np.zeros((60, 80), np.uint8)
    label[:, 20:50] = 1
    exemplar = LabelledImage("e", np.full((60, 80), 210, np.uint8), label, False)
    still = {"sizes": (1, 1), "stretches": (1, 1), "angles": (0, 0), "shears": (0, 0), "elastic": 0}
    ground = {"g": np.full((60, 80), 10, np.uint8)}
    made = make(exemplar, ground, steady(feathers=(4, 4), **still)).sample(0)
    # Over four pixels about the edge between columns 19 and 20: an eighth, three eighths, ...
    assert made.image[30, 17:23].tolist() == [10, 35, 85, 135, 185, 210]
    assert made.label[30, 17:23].tolist() == [0, 0, 0, 1, 1, 1]
    hard = make(exemplar, ground, steady(**still)).sample(0)
    assert hard.image[30, 17:23].tolist() == [10, 10, 10, 210, 210, 210]


def test_levels_of_the_exemplar_are_left_out(exemplar: LabelledImage, steady: Build) -> None:
    names = [f"{volume}_{axis}{index:03d}" for volume in "ab" for axis in "xz" for index in range(11)]
    at = replace(exemplar, name="a_z004")
    config = steady(background_policy="no_foreground_prior", prior_margin=0.25)
    synthesiser = Synthesiser([at], names, lambda name: np.full((96, 120), 20, np.uint8), config)
    # Level 0.4 of z: 0.2 to 0.6 are too near.
    far = {f"{volume}_z{index:03d}" for volume in "ab" for index in (0, 1, 7, 8, 9, 10)}
    assert set(synthesiser.backgrounds) == far | {name for name in names if "_x" in name}
    with pytest.raises(DataError, match="named <volume>_<axis><number>"):
        Synthesiser([exemplar], names, lambda name: exemplar.image, config)
    with pytest.raises(DataError, match="smaller prior_margin"):
        Synthesiser(
            [at], [name for name in names if "_z" in name], lambda _: exemplar.image, replace(config, prior_margin=1.0)
        )


def test_a_mixed_stream_has_the_share_that_it_says(exemplar: LabelledImage, grounds: Grounds) -> None:
    second = replace(exemplar, name="second")
    for share, expected in ((0.5, 5), (0.25, 2.5), (0.0, 0), (1.0, 10)):
        config = SynthesisConfig(synthetic_share=share)
        stream = Synthesiser([exemplar, second], list(grounds), grounds.__getitem__, config)
        mixed = [stream.mixed(index) for index in range(20)]
        for start in range(10):
            synthetic = sum(one.background is not None for one in mixed[start : start + 10])
            assert abs(synthetic - expected) < 1
        real = [one.exemplar for one in mixed if one.background is None]
        assert real == (["exemplar", "second"] * 10)[: len(real)]
        made = [one for one in mixed if one.background is not None]
        for index, one in enumerate(made):
            assert np.array_equal(one.image, stream.sample(index).image)


def test_an_exemplar_is_given_as_it_is(exemplar: LabelledImage, grounds: Grounds) -> None:
    got = make(exemplar, grounds, SynthesisConfig()).exemplar("exemplar")
    assert isinstance(got, SyntheticImage)
    assert np.array_equal(got.image, exemplar.image)
    assert np.array_equal(got.label, exemplar.label)
    assert got.background is None


def test_what_cannot_be_used_is_refused(exemplar: LabelledImage, grounds: Grounds, steady: Build) -> None:
    empty = replace(exemplar, label=np.zeros_like(exemplar.label))
    instances = replace(exemplar, instances=True)
    many = replace(exemplar, label=exemplar.label.astype(np.uint16) * 100)
    for wrong, text in ((empty, "no labelled pixel"), (instances, "class ids"), (many, "class ids from 0 to 255")):
        with pytest.raises(DataError, match=text):
            make(wrong, grounds, steady())
    with pytest.raises(DataError, match="each once, got"):
        Synthesiser([exemplar, exemplar], [], lambda _: exemplar.image, steady())
    with pytest.raises(DataError, match="at least one exemplar"):
        Synthesiser([], ["a"], lambda _: exemplar.image, steady())
    with pytest.raises(DataError, match="each background once"):
        Synthesiser([exemplar], ["a", "a"], lambda _: exemplar.image, steady())
