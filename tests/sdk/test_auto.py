"""Bundles that prompt themselves: what they point at, what a person adds, and what they answer."""

import copy
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

import samsdk
from samsdk import (
    AutoResult,
    BackendError,
    BundleError,
    Embedding,
    OutputError,
    Predictor,
    Prompt,
    PromptError,
    Splitting,
    cli,
)
from samsdk.manifest_reader import read_manifest
from samsdk.masks import Region
from samsdk.point_selection import select_points
from samsdk.splitting import number_objects, split_instances


@pytest.fixture(scope="module")
def nuclei(auto_bundle: Path) -> Predictor:
    return samsdk.load(auto_bundle, device="cpu", threads=1)


@pytest.fixture(scope="module")
def image(tissue: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.ascontiguousarray(tissue[100:260, 60:260])


@pytest.fixture(scope="module")
def embedding(nuclei: Predictor, image: NDArray[np.uint8]) -> Embedding:
    return nuclei.encode(image)


def told(result: samsdk.Result) -> AutoResult:
    assert isinstance(result, AutoResult)
    return result


def by_hand(predictor: Predictor, embedding: Embedding) -> tuple[NDArray[np.float64], NDArray[np.float32]]:
    """The points that the bundle should pick."""
    assert embedding.point_probabilities is not None
    assert predictor.manifest.auto is not None
    return select_points(embedding.point_probabilities, embedding.frame, predictor.manifest.auto.selection)


def test_without_a_prompt_it_answers_to_its_own_points(
    nuclei: Predictor, image: NDArray[np.uint8], embedding: Embedding
) -> None:
    points, labels = by_hand(nuclei, embedding)
    assert 1 in labels
    assert 0 in labels
    result = told(nuclei.segment(image))
    np.testing.assert_array_equal(result.points, points)
    np.testing.assert_array_equal(result.point_labels, labels)
    logits, scores = nuclei.decode_all(embedding, Prompt(points, labels))
    np.testing.assert_array_equal(result.low_res_logits[0], logits[0])
    assert result.score == scores[0]
    assert (result.masks.shape, result.provider) == ((1, 160, 200), nuclei.provider)
    several = nuclei.segment(image, multimask=True)
    np.testing.assert_array_equal(several.low_res_logits, logits[1:])


def test_points_of_a_person_come_first(nuclei: Predictor, image: NDArray[np.uint8], embedding: Embedding) -> None:
    points, labels = by_hand(nuclei, embedding)
    result = told(nuclei.segment(image, points=[(20, 30), (5, 6)], labels=[0, 1]))
    np.testing.assert_array_equal(result.points, [(20, 30), (5, 6), *points])
    np.testing.assert_array_equal(result.point_labels, [0, 1, *labels])
    logits, _ = nuclei.decode_all(embedding, Prompt(result.points, result.point_labels))
    np.testing.assert_array_equal(result.low_res_logits[0], logits[0])
    # One alone, and its label left out.
    one = told(nuclei.decode(embedding, points=(20, 30)))
    np.testing.assert_array_equal(one.points, [(20, 30), *points])
    assert one.point_labels[0] == 1


def test_no_point_of_a_person_is_dropped(nuclei: Predictor, embedding: Embedding) -> None:
    points, _ = by_hand(nuclei, embedding)
    given = np.random.default_rng(0).uniform(0, 160, (253, 2))
    # The graph takes 255 points: the best two of its own are left.
    result = told(nuclei.decode(embedding, points=given))
    np.testing.assert_array_equal(result.points, [*given, *points[:2]])
    more = np.concatenate([given, given[:10]])
    np.testing.assert_array_equal(told(nuclei.decode(embedding, points=more)).points, more)


def test_a_box_or_a_mask_means_one_object(nuclei: Predictor, image: NDArray[np.uint8], embedding: Embedding) -> None:
    result = told(nuclei.segment(image, box=(20, 30, 90, 80)))
    assert (result.points.shape, result.point_labels.shape) == ((0, 2), (0,))
    logits, _ = nuclei.decode_all(embedding, Prompt(box=(20, 30, 90, 80)))
    np.testing.assert_array_equal(result.low_res_logits[0], logits[0])
    both = told(nuclei.segment(image, box=(20, 30, 90, 80), points=[(40, 40)]))
    np.testing.assert_array_equal(both.points, [(40, 40)])
    corrected = told(nuclei.decode(embedding, mask=nuclei.segment(image)))
    assert len(corrected.points) == 0


def test_prompts_that_it_completes_and_others_share_a_batch(nuclei: Predictor, embedding: Embedding) -> None:
    prompts = [Prompt(), Prompt(box=(20, 30, 90, 80)), Prompt([(9, 9)]), Prompt()]
    results = nuclei.decode_batch(embedding, prompts)
    for prompt, result in zip(prompts, results, strict=True):
        alone = told(nuclei.decode_batch(embedding, [prompt])[0])
        np.testing.assert_array_equal(told(result).points, alone.points)
        np.testing.assert_allclose(result.low_res_logits, alone.low_res_logits, atol=1e-4)
    own = len(by_hand(nuclei, embedding)[0])
    assert [len(told(result).points) for result in results] == [own, 0, own + 1, own]


def test_an_image_without_foreground_has_an_empty_answer(nuclei: Predictor, tmp_path: Path) -> None:
    nothing = np.zeros((50, 70), np.uint8)
    result = told(nuclei.segment(nothing))
    assert (result.area, result.box, result.score, len(result.points)) == (0, None, 0.0, 0)
    assert (result.mask.shape, result.low_res_logits.shape) == ((50, 70), (1, 64, 64))
    assert not result.instances().any()
    assert result.polygons() == []
    assert set(result.timings) == {"preprocess", "encode", "decode", "postprocess"}
    assert result.overlay(nothing).shape == (50, 70, 3)
    result.save(tmp_path / "out.json")
    assert json.loads((tmp_path / "out.json").read_text())["points"] == []
    assert told(nuclei.segment(nothing, multimask=True)).masks.shape == (3, 50, 70)
    # It can be corrected, as any other.
    assert nuclei.segment(nothing, mask=result).mask.shape == (50, 70)
    # What a person says counts alone: without an object of its own it has no points on background either.
    assert told(nuclei.segment(nothing, points=[(10, 12)])).points.tolist() == [[10, 12]]


def test_points_stay_inside_the_window(nuclei: Predictor, image: NDArray[np.uint8]) -> None:
    part = told(nuclei.decode(nuclei.encode(image, window=(40, 20, 140, 100))))
    assert len(part.points) > 1
    assert ((part.points >= (40, 20)) & (part.points < (140, 100))).all()
    alone = told(nuclei.segment(np.ascontiguousarray(image[20:100, 40:140])))
    np.testing.assert_allclose(part.points - (40, 20), alone.points, atol=1e-9)
    np.testing.assert_array_equal(part.mask[20:100, 40:140], alone.mask)


def test_an_embedding_keeps_where_points_may_go(
    nuclei: Predictor, predictor: Predictor, image: NDArray[np.uint8], embedding: Embedding, tmp_path: Path
) -> None:
    probabilities = embedding.point_probabilities
    assert probabilities is not None
    assert (probabilities.shape, probabilities.dtype) == ((64, 64), np.float32)
    assert 0 <= probabilities.min() < 0.1 < 0.9 < probabilities.max() <= 1
    with pytest.raises(ValueError, match="read-only"):
        probabilities[0, 0] = 1
    embedding.save(tmp_path / "image.npz")
    loaded = Embedding.load(tmp_path / "image.npz")
    np.testing.assert_array_equal(loaded.point_probabilities, probabilities)
    one, other = nuclei.decode(embedding), nuclei.decode(loaded)
    np.testing.assert_array_equal(told(one).points, told(other).points)
    np.testing.assert_array_equal(one.mask, other.mask)
    with pytest.raises(BundleError, match="does not say where points may go: encode the image again"):
        nuclei.decode(replace(embedding, point_probabilities=None))
    replace(embedding, point_probabilities=np.zeros((3, 3), np.float32)).save(tmp_path / "bad.npz")
    with pytest.raises(BundleError, match=r"point_probabilities has shape \[3, 3\]"):
        Embedding.load(tmp_path / "bad.npz")
    # Other bundles have none.
    assert predictor.encode(image).point_probabilities is None


def test_a_second_call_on_an_image_encodes_nothing(auto_bundle: Path, image: NDArray[np.uint8]) -> None:
    fresh = samsdk.load(auto_bundle, device="cpu", threads=1)
    first = told(fresh.segment(image))
    fresh._encoder = fresh._prompter = None  # type: ignore[assignment]
    again = told(fresh.segment(image))
    assert again.timings["encode"] == 0.0
    np.testing.assert_array_equal(first.points, again.points)
    np.testing.assert_array_equal(first.mask, again.mask)
    assert len(told(fresh.segment(image, points=[(3, 4)])).points) == 1 + len(first.points)


def test_a_map_that_is_not_finite_never_leaves(auto_bundle: Path, image: NDArray[np.uint8]) -> None:
    class Broken:
        provider = "broken"

        def run(self, feeds: Any) -> dict[str, NDArray[np.float32]]:
            return {"point_probabilities": np.full((1, 1, 64, 64), np.nan, np.float32)}

    fresh = samsdk.load(auto_bundle, device="cpu", threads=1)
    fresh._prompter = Broken()
    with pytest.raises(BackendError, match="output point_probabilities holds NaN or infinity"):
        fresh.encode(image)


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"labels": [1]}, "got labels without points"),
        ({"points": [(300, 5)]}, "points must lie inside the image, 0 <= x < 200"),
        ({"points": [(3, 5, 1)]}, r"points must have shape \[K, 2\]"),
        ({"zoom": True}, "the answer is of the whole image, there is no object to look closer at; leave zoom out"),
        ({"zoom": True, "points": [(3, 5)]}, "leave zoom out"),
    ],
)
def test_what_is_malformed_is_refused(
    nuclei: Predictor, image: NDArray[np.uint8], given: dict[str, Any], text: str
) -> None:
    with pytest.raises(PromptError, match=text):
        nuclei.segment(image, **given)


def test_it_can_look_closer_at_one_object(nuclei: Predictor, image: NDArray[np.uint8]) -> None:
    result = nuclei.segment(image, box=(20, 30, 60, 60), zoom=True)
    assert result.frame.window == (0, 5, 80, 85)


def test_a_mask_is_split_as_the_bundle_says(
    nuclei: Predictor, predictor: Predictor, image: NDArray[np.uint8], tmp_path: Path
) -> None:
    result = told(nuclei.segment(image))
    expected = split_instances(result.mask, smallest=4, depth=0.5)
    assert expected.max() >= 2
    numbers = result.instances()
    assert numbers.dtype == np.int32
    np.testing.assert_array_equal(numbers, expected)
    np.testing.assert_array_equal(
        result.instances(Splitting(100, 4.0)), split_instances(result.mask, smallest=100, depth=4.0)
    )
    result.save_instances(tmp_path / "numbers.png")
    stored = cv2.imread(str(tmp_path / "numbers.png"), cv2.IMREAD_UNCHANGED)
    assert stored.dtype == np.uint16
    np.testing.assert_array_equal(stored, expected)
    with pytest.raises(BundleError, match=r"nuclei@.* does not say how objects are split: give a splitting"):
        replace(result, splitting=None).instances()
    # Of other bundles, too, if one says how.
    other = predictor.segment(image, box=(20, 30, 90, 80))
    np.testing.assert_array_equal(other.instances(Splitting()), split_instances(other.mask))


def test_more_objects_than_a_png_can_number_are_refused(nuclei: Predictor, tmp_path: Path) -> None:
    dots = np.zeros((600, 600), np.bool_)
    dots[::2, ::2] = True
    result = told(nuclei.segment(np.zeros((600, 600), np.uint8)))
    many = replace(result, regions=(Region((600, 600), 0, 0, dots),), splitting=Splitting(1, 0.5))
    with pytest.raises(OutputError, match="a PNG numbers at most 65535 objects, got 90000"):
        many.save_instances(tmp_path / "numbers.png")
    assert not (tmp_path / "numbers.png").exists()


def test_objects_have_the_same_numbers_in_a_part_as_in_the_whole() -> None:
    noise = np.random.default_rng(4).normal(size=(60, 80)).astype(np.float32)
    inside = cv2.GaussianBlur(noise, (0, 0), 3) > 0.03
    whole = np.zeros((100, 120), np.bool_)
    whole[40:, 0:80] = inside  # along two borders of the image
    numbers = number_objects(Region((100, 120), 40, 0, inside), Splitting(5, 0.7))
    assert numbers.max() > 5
    np.testing.assert_array_equal(numbers, split_instances(whole, smallest=5, depth=0.7))


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"smallest": -1}, "smallest must be at least 0, got -1"),
        ({"smallest": 1.5}, "smallest must be a whole number, got 1.5"),
        ({"depth": 0}, "depth must be above 0, got 0"),
        ({"depth": float("nan")}, "depth must be a finite number, got nan"),
        ({"depth": True}, "depth must be a finite number, got True"),
        ({"deep": 1}, r"unknown fields \['deep'\]"),
    ],
)
def test_a_splitting_that_makes_no_sense_is_refused(values: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        Splitting.from_dict({**Splitting().to_dict(), **values})
    assert Splitting.from_dict(json.loads(json.dumps(Splitting(3, 0.5).to_dict()))) == Splitting(3, 0.5)


def test_a_result_is_saved_with_its_points(nuclei: Predictor, image: NDArray[np.uint8], tmp_path: Path) -> None:
    result = told(nuclei.segment(image, points=[(7, 8.5)]))
    for name in ("out.npz", "out.json"):
        result.save(tmp_path / name)
    with np.load(tmp_path / "out.npz", allow_pickle=False) as archive:
        np.testing.assert_array_equal(archive["points"], result.points)
        np.testing.assert_array_equal(archive["point_labels"], result.point_labels)
        np.testing.assert_array_equal(archive["masks"], result.masks)
    data = json.loads((tmp_path / "out.json").read_text())
    assert data["points"][0] == [7, 8.5]
    assert data["point_labels"] == result.point_labels.astype(int).tolist()
    assert data["score"] == result.score


Change = Callable[[dict[str, Any]], object]


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda data: data["prompts"].pop("selection"), "prompts.selection is missing: how it picks its points"),
        (lambda data: data["prompts"]["selection"].update(strategy="best"), "strategy must be one of centroid, proba"),
        (lambda data: data["prompts"]["selection"].pop("margin"), r"missing fields \['margin'\]"),
        (lambda data: data["prompts"].update(selection=[1]), "a point selection must be an object, got list"),
        (
            lambda data: data["prompts"].update(splitting={"smallest": 4}),
            r"splitting is not valid: missing fields \['d",
        ),
        (lambda data: data["prompts"].update(trained=["box"]), r"prompts.trained must name points, .* got \['box'\]"),
        (lambda data: data["prompts"].update(kinds=[]), "prompts.kinds names no kind"),
        (lambda data: data["tiers"]["exact"][0].pop("prompter"), "tiers.exact.0.prompter is missing"),
        (
            lambda data: data["tiers"]["exact"][0]["prompter"].update(file="a.onnx"),
            "prompter names a.onnx, which files",
        ),
    ],
)
def test_a_manifest_without_what_its_task_needs_is_refused(auto_bundle: Path, change: Change, text: str) -> None:
    data = json.loads((auto_bundle / "manifest.json").read_bytes())
    changed = copy.deepcopy(data)
    change(changed)
    with pytest.raises(BundleError, match=text):
        read_manifest(json.dumps(changed).encode())
    # The rest of it is what it was, and a bundle that need not split need not say how.
    data["prompts"]["splitting"] = None
    manifest = read_manifest(json.dumps(data).encode())
    assert manifest.auto is not None
    assert manifest.auto.splitting is None


def test_only_a_bundle_that_prompts_itself_has_a_prompter(exported_bundle: Path, auto_bundle: Path) -> None:
    mine, other = (samsdk.Bundle.open(path).manifest for path in (auto_bundle, exported_bundle))
    assert (other.auto, other.plan("exact", "onnxruntime-cpu").prompter) == (None, None)
    data = json.loads((exported_bundle / "manifest.json").read_bytes())
    data["tiers"]["exact"][0]["prompter"] = data["tiers"]["exact"][0]["encoder"]
    assert read_manifest(json.dumps(data).encode()).tiers == other.tiers
    assert mine.auto is not None
    assert mine.auto.splitting == Splitting(4, 0.5)


def test_the_command_line_needs_no_prompt(
    auto_bundle: Path,
    exported_bundle: Path,
    image: NDArray[np.uint8],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    cv2.imwrite(str(tmp_path / "image.png"), image[..., ::-1])
    how = ["segment", str(tmp_path / "image.png"), "--device", "cpu", "--model"]
    numbers = tmp_path / "numbers.png"
    assert cli.main([*how, str(auto_bundle), "--instances", str(numbers), "-o", str(tmp_path / "mask.png")]) == 0
    result = told(samsdk.segment(image, model=auto_bundle, device="cpu"))
    lines = capsys.readouterr().out.splitlines()
    certainty = f"score {result.score:.3f}  confidence {result.confidence:.3f}"
    assert lines[0] == f"{certainty}  area {result.area} px  box {result.box}  points {len(result.points)}"
    assert f"instances: {numbers}" in lines
    np.testing.assert_array_equal(cv2.imread(str(numbers), cv2.IMREAD_UNCHANGED), result.instances())
    np.testing.assert_array_equal(cv2.imread(str(tmp_path / "mask.png"), cv2.IMREAD_UNCHANGED) > 0, result.mask)
    assert cli.main([*how, str(auto_bundle), "--point", "7,9", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["points"][0] == [7, 9]
    assert cli.main([*how, str(exported_bundle), "--point", "7,9", "--instances", str(tmp_path / "none.png")]) == 2
    assert "--instances is for bundles that prompt themselves" in capsys.readouterr().err
    assert not (tmp_path / "none.png").exists()
    assert cli.main([*how, str(exported_bundle)]) == 2
    assert "give a prompt: --point" in capsys.readouterr().err
    assert cli.main(["info", str(auto_bundle)]) == 0
    assert "prompts: none needed, or points, box, mask (trained with: points" in capsys.readouterr().out
