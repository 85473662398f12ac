"""From an image to its objects: with the model in the package on discs that are known."""

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

import samsdk
from samsdk.everything import EverythingResult, EverythingSettings, generator, segment_everything
from samsdk.everything.filtering import cleaned, stability_scores
from samsdk.everything.points import grid_points
from samsdk.masks import mask_iou
from samsdk_training.metrics.instances import match_objects

Labelled = tuple[NDArray[np.uint8], NDArray[np.int32]]


@pytest.fixture(scope="module")
def found(student: samsdk.Predictor, dish: Labelled) -> EverythingResult:
    return segment_everything(student, dish[0])


def test_every_disc_is_found_and_counted(found: EverythingResult, dish: Labelled) -> None:
    match = match_objects(found.label_map, dish[1])
    assert match.f1() >= 0.9
    assert match.segmentation_quality >= 0.8
    assert abs(found.count - 17) <= 1


def test_label_map_and_instances_say_the_same(found: EverythingResult) -> None:
    assert found.label_map.dtype == np.int32
    assert [one.number for one in found.instances] == list(range(1, found.count + 1))
    assert set(np.unique(found.label_map)) == set(range(found.count + 1))
    for one in found.instances:
        mask = found.label_map == one.number
        assert np.array_equal(one.region.full(), mask)
        assert one.area == mask.sum() >= 16
        rows, columns = np.nonzero(mask)
        assert one.box == (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
        assert one.score >= 0.4
        assert 0.3 <= one.stability <= 1


def test_it_gives_the_same_twice(found: EverythingResult, student: samsdk.Predictor, dish: Labelled) -> None:
    again = segment_everything(student, dish[0])
    assert np.array_equal(again.label_map, found.label_map)
    assert [(one.score, one.stability) for one in again.instances] == [
        (one.score, one.stability) for one in found.instances
    ]


def test_what_tiles_cut_is_neither_doubled_nor_lost(student: samsdk.Predictor, borders: Labelled) -> None:
    result = segment_everything(student, borders[0])
    match = match_objects(result.label_map, borders[1])
    assert (match.true_positives, match.false_positives, match.false_negatives) == (9, 0, 0)


def test_what_closer_tiles_cut_is_found_in_a_larger_one(
    student: samsdk.Predictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, columns = np.mgrid[:256, :256]
    long = ((rows - 128) / 20) ** 2 + ((columns - 128) / 60) ** 2 < 1
    image = np.where(long, 190, 40) + np.random.default_rng(1).normal(0, 3, (256, 256))
    # As if all spots were specks: each is asked for in the closest tiles first, of 128 pixels.
    monkeypatch.setattr(generator, "_SEEN", 1e4)
    result = segment_everything(student, image.clip(0, 255).astype(np.uint8))
    assert max(mask_iou(one.region.full(), long) for one in result.instances) >= 0.85


def test_one_tile_gives_what_the_whole_image_gives(student: samsdk.Predictor, dish: Labelled) -> None:
    """The grid on one layer, step by step by hand: the same masks, from one engine call after the other."""
    image = dish[0]
    settings = EverythingSettings(points_per_side=6, crop_n_layers=0, box_nms_thresh=1.0, overlap_thresh=1.0)
    result = segment_everything(student, image, settings)
    embedding = student.encode(image)
    prompts = [samsdk.Prompt(points=[place]) for place in grid_points((192, 256), 6).places]
    kept = []
    for answer in student.decode_batch(embedding, prompts):
        stable = float(stability_scores(answer.low_res_logits, embedding.frame, 0.0, 1.0)[0])
        region = cleaned(answer.region, 16)
        if answer.score >= 0.4 and stable >= 0.3 and region and region.area <= 0.5 * image.size:
            kept.append((answer.score * stable, region.full()))
    labels, number = np.zeros(image.shape, np.int32), 0
    for _, mask in sorted(kept, key=lambda one: -one[0]):
        if (mask & (labels == 0)).sum() >= 16:
            number += 1
            labels[mask & (labels == 0)] = number
    assert number > 3
    assert result.points == 36
    assert np.array_equal(result.label_map, labels)


@pytest.mark.parametrize("per_side", [None, 4])
def test_an_empty_image_has_no_object(student: samsdk.Predictor, per_side: int | None) -> None:
    result = segment_everything(student, np.full((150, 200), 80, np.uint8), EverythingSettings(per_side))
    assert result.count == 0
    assert not result.label_map.any()
    assert result.label_map.shape == (150, 200)
    assert result.to_dict()["instances"] == []


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: EverythingSettings(pred_iou_thresh=1.2), "pred_iou_thresh must be within 0 to 1, got 1.2"),
        (lambda: EverythingSettings(points_per_side=0), "points_per_side must be at least 1"),
        (lambda: EverythingSettings(crop_n_layers=-1), "crop_n_layers must be at least 0"),
        (lambda: EverythingSettings(stability_score_offset=float("nan")), "stability_score_offset"),
        (lambda: EverythingSettings(min_mask_region_area=-5), "min_mask_region_area must be at least 0"),
    ],
)
def test_settings_that_make_no_sense_are_refused(make: Callable[[], EverythingSettings], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        make()
