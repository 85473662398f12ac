import importlib
import inspect
import json
import sys
import threading
import types
import warnings
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

import samsdk
from samsdk import (
    BackendError,
    BundleError,
    Embedding,
    ImageError,
    ImageNotSetError,
    Predictor,
    Prompt,
    PromptError,
    Result,
)
from samsdk.backends.tensorrt import TensorRtBackend
from samsdk.masks import upsample_logits

BOX = (120, 100, 300, 260)


@pytest.fixture
def fresh(exported_bundle: Path) -> Predictor:
    """A predictor of its own, to set images in and to spy on."""
    return samsdk.load(exported_bundle, device="cpu", threads=1)


@pytest.fixture(scope="module")
def embedding(predictor: Predictor, tissue: NDArray[np.uint8]) -> Embedding:
    return predictor.encode(tissue)


class Spy:
    """Stands in for a backend: counts the calls, and may spoil what comes out."""

    def __init__(self, backend: Any, spoil: Callable[[dict[str, Any]], None] = lambda outputs: None) -> None:
        self.backend = backend
        self.provider = backend.provider
        self.spoil = spoil
        self.feeds: list[dict[str, NDArray[Any]]] = []

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        self.feeds.append(dict(feeds))
        outputs = {name: value.copy() for name, value in self.backend.run(feeds).items()}
        self.spoil(outputs)
        return outputs


def spy_on(predictor: Predictor, part: str, **kwargs: Any) -> Spy:
    spy = Spy(getattr(predictor, part), **kwargs)
    setattr(predictor, part, spy)
    return spy


def same(first: Result, second: Result) -> None:
    np.testing.assert_array_equal(first.low_res_logits, second.low_res_logits)
    np.testing.assert_array_equal(first.scores, second.scores)
    np.testing.assert_array_equal(first.masks, second.masks)


def mixed_prompts(size: tuple[int, int], logits: NDArray[np.float32]) -> list[Prompt]:
    mask = np.zeros(size, dtype=bool)
    mask[80:200, 90:260] = True
    return [
        Prompt(box=BOX),
        Prompt(points=[(200, 180)]),
        Prompt(points=[(200, 180), (150, 300), (400, 20)], labels=[1, 0, 0]),
        Prompt(points=[(200, 180)], labels=[0], box=BOX),
        Prompt(mask=mask, points=[(100, 100)]),
        Prompt(box=(10, 20, 60, 90)),
        Prompt(points=[(33, 44)]),
        Prompt(mask=mask),
        Prompt(mask=logits, box=BOX),
    ]


@pytest.mark.parametrize("multimask", [False, True])
def test_a_batch_of_mixed_prompts_answers_as_one_by_one(
    fresh: Predictor, embedding: Embedding, multimask: bool
) -> None:
    prompts = mixed_prompts((512, 512), fresh.decode(embedding, box=BOX).low_res_logits[0])
    single = [
        fresh.decode(embedding, points=p.points, labels=p.labels, box=p.box, mask=p.mask, multimask=multimask)
        for p in prompts
    ]
    spy = spy_on(fresh, "_decoder")
    batch = fresh.decode_batch(embedding, prompts, multimask=multimask)
    assert len(batch) == len(prompts)
    for alone, together in zip(single, batch, strict=True):
        np.testing.assert_allclose(together.low_res_logits, alone.low_res_logits, atol=1e-5, rtol=0)
        np.testing.assert_allclose(together.scores, alone.scores, atol=1e-5, rtol=0)
        # A logit within rounding of the threshold may fall on either side.
        assert np.count_nonzero(together.masks != alone.masks) <= 4
        assert len(together.scores) == (3 if multimask else 1)
    # The answers differ by far more than the tolerance, so the order is proved too.
    distances = [np.abs(a.low_res_logits - b.low_res_logits).max() for i, a in enumerate(single) for b in single[:i]]
    assert min(distances) > 1e-3
    # Tokens: box 2, one point 2, three points 4, point and box 3, mask and point 2, mask alone none.
    calls = sorted((len(feeds["point_labels"]), feeds["point_labels"].shape[1]) for feeds in spy.feeds)
    assert calls == [(1, 0), (1, 3), (1, 4), (6, 2)]


def test_the_best_mask_answers_where_the_first_was_never_trained(fresh: Predictor, embedding: Embedding) -> None:
    def rank(outputs: dict[str, Any]) -> None:
        scores = outputs["iou_predictions"]
        scores[:] = np.eye(3, 4, 1)[np.arange(len(scores)) % 3]
        scores[:, 0] = 9  # of the first mask, which must not count

    spy_on(fresh, "_decoder", spoil=rank)
    prompts = [Prompt(box=(x, 10, x + 90, 120)) for x in range(0, 60, 10)]
    many = fresh.decode_batch(embedding, prompts, multimask=True)
    fresh.manifest = replace(fresh.manifest, single_mask="best")
    for index, (single, offered) in enumerate(zip(fresh.decode_batch(embedding, prompts), many, strict=True)):
        assert single.scores.tolist() == [1.0]
        np.testing.assert_array_equal(single.low_res_logits[0], offered.low_res_logits[index % 3])
    same(fresh.decode_batch(embedding, prompts, multimask=True)[4], many[4])


def test_a_mask_goes_back_as_its_sigmoid_where_the_bundle_says_so(fresh: Predictor, embedding: Embedding) -> None:
    first = fresh.decode(embedding, box=BOX)
    spy = spy_on(fresh, "_decoder")
    fresh.decode(embedding, mask=first)
    fresh.manifest = replace(fresh.manifest, preprocessing=replace(fresh.manifest.preprocessing, mask_prompt="sigmoid"))
    fresh.decode(embedding, mask=first)
    logits, probability = (feeds["mask_input"][0, 0] for feeds in spy.feeds)
    np.testing.assert_array_equal(logits, first.low_res_logits[0])
    np.testing.assert_allclose(probability, 1 / (1 + np.exp(-logits)), atol=1e-6)


def test_prompts_of_one_kind_share_one_engine_call(fresh: Predictor, embedding: Embedding) -> None:
    spy = spy_on(fresh, "_decoder")
    boxes = [Prompt(box=(x, 10, x + 50, 80)) for x in range(0, 160, 10)]
    results = fresh.decode_batch(embedding, boxes)
    assert [feeds["point_coords"].shape for feeds in spy.feeds] == [(16, 2, 2)]
    feeds = spy.feeds[0]
    # 512 pixels become 64, and this bundle cuts box corners to whole pixels.
    np.testing.assert_array_equal(feeds["point_coords"][5], [[6, 1], [12, 10]])
    np.testing.assert_array_equal(feeds["point_labels"][5], [2, 3])
    assert feeds["mask_input"].shape == (16, 1, 64, 64)
    assert not feeds["mask_input"].any()
    assert not feeds["has_mask_input"].any()
    assert len(results) == 16
    assert fresh.decode_batch(embedding, []) == []
    assert len(spy.feeds) == 1


def test_no_prompt_runs_when_one_of_them_is_wrong(fresh: Predictor, embedding: Embedding) -> None:
    spy = spy_on(fresh, "_decoder")
    with pytest.raises(PromptError, match="points must lie inside the image, 0 <= x < 512"):
        fresh.decode_batch(embedding, [Prompt(box=BOX), Prompt(points=[(512, 0)])])
    with pytest.raises(PromptError, match="no prompt at all; expected at least one of: points, box, mask"):
        fresh.decode(embedding)
    assert spy.feeds == []


def test_multimask_gives_the_other_three_masks(predictor: Predictor, embedding: Embedding) -> None:
    one = predictor.decode(embedding, points=[(200, 180)])
    three = predictor.decode(embedding, points=[(200, 180)], multimask=True)
    assert one.low_res_logits.shape == (1, 64, 64)
    assert three.low_res_logits.shape == (3, 64, 64)
    assert one.masks.shape == (1, 512, 512)
    assert three.masks.shape == (3, 512, 512)
    assert all(np.abs(one.low_res_logits[0] - other).max() > 1e-3 for other in three.low_res_logits)
    assert three.best == int(np.argmax(three.scores))
    np.testing.assert_array_equal(three.mask, three.masks[three.best])


def test_a_bundle_without_masks_for_ambiguous_prompts_says_so(tiny_bundle: Path, tissue: NDArray[np.uint8]) -> None:
    edit_manifest(tiny_bundle, ("outputs", "multimask_outputs"), 0)
    predictor = samsdk.load(tiny_bundle, device="cpu")
    with pytest.raises(PromptError, match="no masks for ambiguous prompts; leave multimask out"):
        predictor.segment(tissue, box=BOX, multimask=True)


def edit_manifest(folder: Path, keys: tuple[str, ...], value: Any) -> None:
    """Change one field. `manifest.json` itself is not hashed, so the bundle still loads."""
    file = folder / "manifest.json"
    data = place = json.loads(file.read_bytes())
    for key in keys[:-1]:
        place = place[key]
    place[keys[-1]] = value
    file.write_text(json.dumps(data))


def test_masks_are_the_upsampled_logits_above_the_threshold(predictor: Predictor, cell: NDArray[np.uint8]) -> None:
    result = predictor.segment(cell, box=(250, 280, 420, 430))
    # 660 x 550 becomes 64 x 53 in the square, and the logits are as fine as the square here.
    enlarged = cv2.resize(result.low_res_logits[0, :, :53], (550, 660), interpolation=cv2.INTER_LINEAR)
    clear = np.abs(enlarged) > 1e-3
    assert clear.mean() > 0.98
    np.testing.assert_array_equal(result.mask[clear], enlarged[clear] > 0)
    assert result.provider == "CPUExecutionProvider"
    assert result.bundle.startswith("tiny@")


# The drop-in ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sam_predictor() -> Any:
    """`segment_anything.SamPredictor`, imported with stubs for torchvision, none of which the signatures need."""
    members = {
        "torchvision": (),
        "torchvision.ops": (),
        "torchvision.ops.boxes": ("batched_nms", "box_area"),
        "torchvision.transforms": (),
        "torchvision.transforms.functional": ("resize", "to_pil_image"),
    }
    ours = ("torchvision", "segment_anything")
    before = {name: module for name, module in sys.modules.items() if name.partition(".")[0] in ours}
    try:
        for name, functions in members.items():
            sys.modules[name] = types.ModuleType(name)
            for function in functions:
                setattr(sys.modules[name], function, None)
        return importlib.import_module("segment_anything").SamPredictor
    finally:
        for name in [name for name in sys.modules if name.partition(".")[0] in ours]:
            del sys.modules[name]
        sys.modules.update(before)


@pytest.mark.parametrize("method", ["set_image", "predict", "reset_image", "get_image_embedding"])
def test_the_drop_ins_signatures_are_segment_anythings(sam_predictor: Any, method: str) -> None:
    mine, theirs = (inspect.signature(getattr(cls, method)).parameters for cls in (Predictor, sam_predictor))
    assert [(p.name, p.default, p.kind) for p in mine.values()] == [
        (p.name, p.default, p.kind) for p in theirs.values()
    ]


@pytest.mark.parametrize("multimask", [False, True])
def test_predict_returns_what_decode_returns(fresh: Predictor, cell: NDArray[np.uint8], multimask: bool) -> None:
    fresh.set_image(cell)
    points, labels = np.array([[330, 350], [20, 20]]), np.array([1, 0])
    box = np.array([250, 280, 420, 430])
    masks, scores, logits = fresh.predict(points, labels, box, None, multimask)
    expected = fresh.decode(fresh.encode(cell), points=points, labels=labels, box=box, multimask=multimask)
    count = 3 if multimask else 1
    assert (masks.shape, masks.dtype) == ((count, 660, 550), np.bool_)
    assert (scores.shape, scores.dtype) == ((count,), np.float32)
    assert (logits.shape, logits.dtype) == ((count, 64, 64), np.float32)
    np.testing.assert_array_equal(masks, expected.masks)
    np.testing.assert_array_equal(scores, expected.scores)
    np.testing.assert_array_equal(logits, expected.low_res_logits)


def test_predict_gives_three_masks_unless_told_and_logits_on_request(fresh: Predictor, cell: NDArray[np.uint8]) -> None:
    fresh.set_image(cell)
    masks, scores, _ = fresh.predict(np.array([[330, 350]]), np.array([1]))
    assert len(masks) == len(scores) == 3
    values, again, low = fresh.predict(np.array([[330, 350]]), np.array([1]), return_logits=True)
    assert (values.shape, values.dtype) == ((3, 660, 550), np.float32)
    np.testing.assert_array_equal(values > 0, masks)
    np.testing.assert_array_equal(values, upsample_logits(low, fresh.encode(cell).frame))
    np.testing.assert_array_equal(again, scores)


def test_logits_go_back_in_as_a_mask(fresh: Predictor, cell: NDArray[np.uint8]) -> None:
    fresh.set_image(cell)
    box = np.array([250, 280, 420, 430])
    _, scores, logits = fresh.predict(box=box)
    best = int(np.argmax(scores))
    refined = fresh.predict(box=box, mask_input=logits[best][None], multimask_output=False)
    embedding = fresh.encode(cell)
    result = fresh.decode(embedding, box=box, multimask=True)
    again = fresh.decode(embedding, box=box, mask=result.low_res_logits[result.best])
    np.testing.assert_array_equal(refined[2], again.low_res_logits)
    plain = fresh.decode(embedding, box=box)
    assert np.abs(again.low_res_logits - plain.low_res_logits).max() > 1e-2
    spy = spy_on(fresh, "_decoder")
    fresh.decode(embedding, mask=result.low_res_logits[0])
    np.testing.assert_array_equal(spy.feeds[0]["mask_input"][0, 0], result.low_res_logits[0])
    assert spy.feeds[0]["has_mask_input"].tolist() == [1.0]


def test_without_an_image_the_drop_in_says_to_set_one(fresh: Predictor, cell: NDArray[np.uint8]) -> None:
    for call in (lambda: fresh.predict(box=np.array(BOX)), fresh.get_image_embedding):
        with pytest.raises(ImageNotSetError, match=r"an image must be set with .set_image"):
            call()
    fresh.set_image(cell)
    fresh.predict(box=np.array(BOX))
    fresh.reset_image()
    with pytest.raises(RuntimeError, match="an image must be set"):
        fresh.predict(box=np.array(BOX))
    fresh.set_image(cell)
    with pytest.raises(ImageError):
        fresh.set_image(np.zeros((4, 4, 5)))
    # The image before it must not answer for the one that failed.
    with pytest.raises(ImageNotSetError, match="an image must be set"):
        fresh.predict(box=np.array(BOX))


def test_bgr_images_are_turned_and_other_orders_refused(fresh: Predictor, tissue: NDArray[np.uint8]) -> None:
    fresh.set_image(tissue)
    rgb = fresh.get_image_embedding()
    fresh.set_image(tissue[..., ::-1], "BGR")
    np.testing.assert_array_equal(fresh.get_image_embedding(), rgb)
    fresh.set_image(tissue, image_format="BGR")
    assert np.abs(fresh.get_image_embedding() - rgb).max() > 1e-3
    with pytest.raises(ValueError, match="image_format must be 'RGB' or 'BGR', got 'HSV'"):
        fresh.set_image(tissue, "HSV")
    fresh.set_image(tissue[..., 0], "BGR")
    np.testing.assert_array_equal(fresh.get_image_embedding(), fresh.encode(tissue[..., 0]).image_embeddings)


def test_the_image_embedding_is_the_encoders_and_read_only(fresh: Predictor, tissue: NDArray[np.uint8]) -> None:
    fresh.set_image(tissue)
    embedding = fresh.get_image_embedding()
    assert (embedding.shape, embedding.dtype) == ((1, 32, 16, 16), np.float32)
    np.testing.assert_array_equal(embedding, fresh.encode(tissue).image_embeddings)
    with pytest.raises(ValueError, match="read-only"):
        embedding[0] = 0


# Threads, engines, embeddings ----------------------------------------------------------------------------------------


def test_eight_threads_decode_as_one_does(predictor: Predictor, embedding: Embedding) -> None:
    boxes = [(x, x // 2, x + 60, x // 2 + 90) for x in range(0, 400, 17)]
    expected = [predictor.decode(embedding, box=box, multimask=True) for box in boxes]
    with ThreadPoolExecutor(8) as pool:
        got = list(pool.map(lambda box: predictor.decode(embedding, box=box, multimask=True), boxes * 4))
    for alone, threaded in zip(expected * 4, got, strict=True):
        same(alone, threaded)


def test_eight_threads_segment_three_images_as_one_does(
    fresh: Predictor, tissue: NDArray[np.uint8], cell: NDArray[np.uint8]
) -> None:
    images = [tissue, cell, np.ascontiguousarray(tissue[:300, :, 1])]
    expected = [fresh.segment(image, box=BOX) for image in images]
    fresh._recent._kept.clear()
    barrier = threading.Barrier(8)

    def work(number: int) -> list[Result]:
        barrier.wait()
        return [fresh.segment(images[(number + step) % 3], box=BOX) for step in range(6)]

    with ThreadPoolExecutor(8) as pool:
        for number, results in enumerate(pool.map(work, range(8))):
            for step, result in enumerate(results):
                same(result, expected[(number + step) % 3])
    assert len(fresh._recent._kept) == 3


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(
    ("part", "output"),
    [("_encoder", "image_embeddings"), ("_decoder", "low_res_masks"), ("_decoder", "iou_predictions")],
)
def test_what_is_not_finite_never_leaves(
    fresh: Predictor, tissue: NDArray[np.uint8], part: str, output: str, value: float
) -> None:
    def spoil(outputs: dict[str, Any]) -> None:
        # In the single mask's place, whatever the output's rank.
        outputs[output].reshape(-1)[0] = value

    spy_on(fresh, part, spoil=spoil)
    with pytest.raises(BackendError, match=f"output {output} holds NaN or infinity; run `samsdk doctor`"):
        fresh.segment(tissue, box=BOX)
    assert len(fresh._recent._kept) == (0 if part == "_encoder" else 1)


def test_an_embedding_of_another_bundle_is_refused(predictor: Predictor, embedding: Embedding, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="the embedding was made by bundle other@0, this predictor runs tiny@"):
        predictor.decode(replace(embedding, bundle="other@0"), box=BOX)
    embedding.save(tmp_path / "a.npz")
    same(predictor.decode(Embedding.load(tmp_path / "a.npz"), box=BOX), predictor.decode(embedding, box=BOX))


def test_an_embedding_is_read_only_and_says_where_it_came_from(embedding: Embedding, predictor: Predictor) -> None:
    with pytest.raises(ValueError, match="read-only"):
        embedding.image_embeddings[0, 0, 0, 0] = 1
    with pytest.raises(TypeError):
        embedding.tensors["image_embeddings"] = np.zeros(1)  # type: ignore[index]
    assert embedding.bundle == predictor.bundle.identity
    assert embedding.provider == "CPUExecutionProvider"
    assert set(embedding.timings) == {"preprocess", "encode"}
    assert min(embedding.timings.values()) > 0


def test_kinds_that_the_weights_never_saw_are_warned_of(tiny_bundle: Path, tissue: NDArray[np.uint8]) -> None:
    edit_manifest(tiny_bundle, ("prompts", "trained"), ["box"])
    predictor = samsdk.load(tiny_bundle, device="cpu")
    embedding = predictor.encode(tissue)
    with pytest.warns(UserWarning, match="'tiny' was trained with box prompts only, got points: expect a poor mask"):
        predictor.decode(embedding, points=[(200, 180)])
    with pytest.warns(UserWarning, match="got points and mask"):
        predictor.decode(embedding, points=[(200, 180)], mask=np.ones((512, 512), dtype=bool))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        predictor.decode(embedding, box=BOX)
        predictor.decode(embedding, box=BOX, points=[(200, 180)])


def test_a_kind_that_the_bundle_lacks_is_refused(tiny_bundle: Path, tissue: NDArray[np.uint8]) -> None:
    edit_manifest(tiny_bundle, ("prompts", "kinds"), ["box"])
    predictor = samsdk.load(tiny_bundle, device="cpu")
    with pytest.raises(PromptError, match="this bundle takes no points; it takes: box"):
        predictor.segment(tissue, points=[(200, 180)], box=BOX)
    assert predictor.segment(tissue, box=BOX).mask.shape == (512, 512)


def test_the_mask_threshold_is_the_manifests(
    tiny_bundle: Path, predictor: Predictor, tissue: NDArray[np.uint8]
) -> None:
    result = predictor.segment(tissue, box=BOX)
    high = float(np.quantile(result.low_res_logits, 0.9))
    edit_manifest(tiny_bundle, ("outputs", "mask_threshold"), high)
    strict = samsdk.load(tiny_bundle, device="cpu").segment(tissue, box=BOX)
    np.testing.assert_array_equal(strict.low_res_logits, result.low_res_logits)
    enlarged = cv2.resize(result.low_res_logits[0], (512, 512), interpolation=cv2.INTER_LINEAR)
    clear = np.abs(enlarged - high) > 1e-4
    np.testing.assert_array_equal(strict.mask[clear], enlarged[clear] > high)
    assert 0 < strict.area < result.area


# Windows -------------------------------------------------------------------------------------------------------------


def test_a_window_answers_exactly_as_its_crop_by_hand(predictor: Predictor, cell: NDArray[np.uint8]) -> None:
    x0, y0, x1, y1 = window = (130, 210, 430, 560)
    image = np.random.default_rng(0).integers(0, 256, cell.shape).astype(np.uint8) // 8 + cell // 2
    part, crop = predictor.encode(image, window=window), predictor.encode(np.ascontiguousarray(image[y0:y1, x0:x1]))
    drawn = np.zeros(image.shape, bool)
    drawn[300:400, 200:350] = True
    for prompt, shifted in (
        ({"box": (200, 300, 380, 480)}, {"box": (70, 90, 250, 270)}),
        ({"points": [(429, 559), (130, 210)], "labels": [1, 0]}, {"points": [(299, 349), (0, 0)], "labels": [1, 0]}),
        ({"mask": drawn}, {"mask": drawn[y0:y1, x0:x1]}),
    ):
        whole = predictor.decode(part, **prompt, multimask=True)
        expected = predictor.decode(crop, **shifted, multimask=True)
        np.testing.assert_array_equal(whole.low_res_logits, expected.low_res_logits)
        np.testing.assert_array_equal(whole.masks[:, y0:y1, x0:x1], expected.masks)
        assert whole.masks.shape[1:] == image.shape
        assert whole.masks.sum() == expected.masks.sum() > 0
        assert whole.frame.window == window


def test_prompts_outside_the_window_are_refused(predictor: Predictor, tissue: NDArray[np.uint8]) -> None:
    part = predictor.encode(tissue, window=(100, 120, 200, 220))
    inside = r"must lie inside the window that was encoded, \(100, 120, 200, 220\), got"
    for points in ([(99, 150)], [(150, 119)], [(200, 150)], [(150, 150), (150, 220)]):
        with pytest.raises(PromptError, match=f"points {inside}"):
            predictor.decode(part, points=points)
    for box in ((99, 130, 150, 150), (110, 130, 201, 150), (110, 119, 150, 150), (110, 130, 150, 221)):
        with pytest.raises(PromptError, match=f"box {inside}"):
            predictor.decode(part, box=box)
    predictor.decode(part, points=[(199.9, 219.9), (100, 120)], box=(100, 120, 200, 220))


def test_a_window_out_of_the_image_is_refused(predictor: Predictor, tissue: NDArray[np.uint8]) -> None:
    with pytest.raises(ValueError, match="inside an image of 512 x 512"):
        predictor.encode(tissue, window=(0, 0, 513, 10))


def test_a_former_result_is_its_best_masks_logits(fresh: Predictor, embedding: Embedding) -> None:
    former = fresh.decode(embedding, box=BOX, multimask=True)
    given = fresh.decode(embedding, points=[(200, 180)], mask=former)
    same(given, fresh.decode(embedding, points=[(200, 180)], mask=former.low_res_logits[former.best]))


def test_a_former_result_of_another_image_is_refused(
    predictor: Predictor, embedding: Embedding, cell: NDArray[np.uint8]
) -> None:
    former = predictor.decode(predictor.encode(cell), box=BOX)
    with pytest.raises(PromptError, match=r"must be of an image of \[512, 512\] .*, got \[660, 550\] and"):
        predictor.decode(embedding, mask=former)


# Engine calls --------------------------------------------------------------------------------------------------------


def test_on_a_processor_an_engine_call_takes_up_to_16_prompts(fresh: Predictor, embedding: Embedding) -> None:
    boxes = [Prompt(box=(x, 50, x + 120, 300)) for x in range(34)]
    # A single point has as many tokens as a box; two have more, and need a call of their own.
    points = [Prompt(points=[(x, 100), (x, 200)]) for x in range(3)]
    expected = [fresh.decode_batch(embedding, [prompt])[0] for prompt in (boxes[0], boxes[15], boxes[16], boxes[33])]
    spy = spy_on(fresh, "_decoder")
    results = fresh.decode_batch(embedding, [*boxes[:20], *points, *boxes[20:]])
    assert [len(feeds["point_coords"]) for feeds in spy.feeds] == [16, 16, 2, 3]
    assert len(results) == 37
    # In their order, whichever call they were in.
    del results[20:23]
    for index, result in zip((0, 15, 16, 33), expected, strict=True):
        np.testing.assert_allclose(results[index].low_res_logits, result.low_res_logits, atol=1e-4, rtol=0)
        assert results[index].score == pytest.approx(result.score, abs=1e-5)
    assert fresh.decode_batch(embedding, []) == []


def test_a_gpu_takes_up_to_64_prompts_at_once(fresh: Predictor, embedding: Embedding) -> None:
    spy = spy_on(fresh, "_decoder")
    spy.provider = "CUDAExecutionProvider"
    fresh.decode_batch(embedding, [Prompt(box=(x, 50, x + 120, 300)) for x in range(70)])
    assert [len(feeds["point_coords"]) for feeds in spy.feeds] == [64, 6]


@pytest.mark.parametrize(("trained", "corners"), [(["points", "box"], 0), (["box"], 2)])
def test_warming_up_runs_each_graph_once_and_leaves_no_trace(
    tiny_bundle: Path, tissue: NDArray[np.uint8], trained: list[str], corners: int
) -> None:
    manifest = json.loads((tiny_bundle / "manifest.json").read_bytes())
    manifest["prompts"]["trained"] = trained
    (tiny_bundle / "manifest.json").write_text(json.dumps(manifest))
    warm, cold = (samsdk.load(tiny_bundle, device="cpu", threads=1) for _ in range(2))
    encoder, decoder = spy_on(warm, "_encoder"), spy_on(warm, "_decoder")
    with warnings.catch_warnings():
        # A prompt that the weights were not trained with would warn.
        warnings.simplefilter("error")
        warm.warm_up()
    assert [feeds["image"].shape for feeds in encoder.feeds] == [(1, 3, 64, 64)]
    (feeds,) = decoder.feeds
    # Box corners have the labels 2 and 3.
    assert np.count_nonzero(feeds["point_labels"] >= 2) == corners
    with pytest.raises(ImageNotSetError):
        warm.predict(box=np.array(BOX))
    same(warm.segment(tissue, box=BOX), cold.segment(tissue, box=BOX))


def test_a_predictor_says_what_it_was_loaded_as(fresh: Predictor) -> None:
    engines = fresh.engines
    assert (engines.backend, engines.tier, engines.plan.precision) == ("onnxruntime-cpu", "exact", "float32")
    assert engines.certificate == fresh.manifest.parity["exact"]["onnxruntime-cpu"]
    assert engines.decoder.provider == fresh.provider


class OnGpu:
    """Stands for an array in a GPU's memory."""

    def __init__(self, values: NDArray[np.float32]) -> None:
        self.values = values

    def numpy(self) -> NDArray[np.float32]:
        return self.values.copy()


class PretendTensorRt(TensorRtBackend):
    """Computes with another backend, and leaves its outputs where a GPU would."""

    def __init__(self, backend: Any) -> None:
        self.backend, self.provider = backend, "TensorRT-RTX pretended"
        self.feeds: list[dict[str, Any]] = []

    def run(self, feeds: Mapping[str, Any]) -> dict[str, NDArray[np.float32]]:
        self.feeds.append(dict(feeds))
        arrays = {name: value.values if isinstance(value, OnGpu) else value for name, value in feeds.items()}
        return dict(self.backend.run(arrays))

    def run_on_device(self, feeds: Mapping[str, Any]) -> dict[str, Any]:
        return {name: OnGpu(values) for name, values in self.run(feeds).items()}


def test_embeddings_of_tensorrt_stay_on_the_device_for_its_decoder(
    fresh: Predictor, predictor: Predictor, embedding: Embedding, tissue: NDArray[np.uint8], tmp_path: Path
) -> None:
    onnx_decoder = fresh._decoder
    fresh._encoder = PretendTensorRt(fresh._encoder)
    decoder = fresh._decoder = PretendTensorRt(onnx_decoder)
    there = fresh.encode(tissue)
    assert there.on_device is not None
    np.testing.assert_array_equal(there.image_embeddings, embedding.image_embeddings)
    expected = predictor.decode(embedding, box=BOX)
    same(fresh.decode(there, box=BOX), expected)
    assert decoder.feeds[-1]["image_embeddings"] is there.on_device["image_embeddings"]
    # One that was stored, or made elsewhere, comes from the host.
    there.save(tmp_path / "there.npz")
    for other in (Embedding.load(tmp_path / "there.npz"), embedding):
        assert other.on_device is None
        same(fresh.decode(other, box=BOX), expected)
        assert isinstance(decoder.feeds[-1]["image_embeddings"], np.ndarray)
    # And so it does for a decoder elsewhere.
    spy = Spy(onnx_decoder)
    fresh._decoder = spy
    same(fresh.decode(there, box=BOX), expected)
    assert isinstance(spy.feeds[-1]["image_embeddings"], np.ndarray)
