import json
import os
import shutil
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

import samsdk
from samsdk import BundleError, ImageError, Predictor, PromptError
from samsdk.bundle import Bundle
from samsdk.transforms import Window
from samsdk.zoom import Zoom, zoom_window

BOX = (120, 100, 300, 260)


@pytest.fixture(autouse=True)
def no_kept_predictors() -> Iterator[None]:
    """`samsdk.segment` keeps its predictors for the whole process; every test starts without."""
    samsdk._predictors.clear()
    yield
    samsdk._predictors.clear()


@pytest.fixture
def fresh(exported_bundle: Path) -> Predictor:
    return samsdk.load(exported_bundle, device="cpu", threads=1)


def count_encodes(predictor: Predictor) -> list[Window | None]:
    seen: list[Window | None] = []
    encode = predictor.encode

    def spy(image: object, *, window: Window | None = None) -> samsdk.Embedding:
        seen.append(window)
        return encode(image, window=window)

    predictor.encode = spy  # type: ignore[method-assign]
    return seen


def png(array: NDArray[Any]) -> bytes:
    return cv2.imencode(".png", array[..., ::-1] if array.ndim == 3 else array)[1].tobytes()


# What is encoded again, and what is not ------------------------------------------------------------------------------


def test_a_second_prompt_on_the_same_image_is_one_decode(
    fresh: Predictor, tissue: NDArray[np.uint8], tmp_path: Path
) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(png(tissue))
    for forms in ((tissue, tissue.copy(), np.asfortranarray(tissue)), (path, str(path), png(tissue))):
        fresh._recent._kept.clear()
        seen = count_encodes(fresh)
        first, *others = [fresh.segment(form, box=BOX) for form in forms]
        assert len(seen) == 1
        assert min(first.timings["preprocess"], first.timings["encode"], first.timings["decode"]) > 0
        for other in others:
            assert (other.timings["preprocess"], other.timings["encode"]) == (0.0, 0.0)
            assert other.timings["decode"] > 0
            np.testing.assert_array_equal(other.mask, first.mask)


def test_a_changed_image_is_encoded_again(fresh: Predictor, tissue: NDArray[np.uint8], tmp_path: Path) -> None:
    seen = count_encodes(fresh)
    path = tmp_path / "a.png"
    path.write_bytes(png(tissue))
    written = path.stat().st_mtime_ns
    first = fresh.segment(path, box=BOX)
    path.write_bytes(png(tissue[::-1]))
    # Not even the same time hides that the content is another.
    os.utime(path, ns=(written, written))
    second = fresh.segment(path, box=BOX)
    assert len(seen) == 2
    assert np.abs(first.low_res_logits - second.low_res_logits).max() > 1e-3
    array = tissue.copy()
    fresh.segment(array, box=BOX)
    array[0, 0, 0] ^= 255
    fresh.segment(array, box=BOX)
    assert len(seen) == 4


def test_the_last_sixteen_embeddings_are_kept(fresh: Predictor, cell: NDArray[np.uint8]) -> None:
    seen = count_encodes(fresh)
    images = [cell[:100, :100] ^ np.uint8(number) for number in range(17)]
    for image in images[:16]:
        fresh.segment(image, box=(10, 10, 50, 50))
    fresh.segment(images[0], box=(10, 10, 50, 50))
    assert (len(seen), len(fresh._recent._kept)) == (16, 16)
    fresh.segment(images[16], box=(10, 10, 50, 50))
    assert (len(seen), len(fresh._recent._kept)) == (17, 16)
    # The first was used again, so the second is the one that went.
    fresh.segment(images[0], box=(10, 10, 50, 50))
    assert len(seen) == 17
    fresh.segment(images[1], box=(10, 10, 50, 50))
    assert len(seen) == 18


def test_a_wrong_prompt_does_not_cost_the_embedding(fresh: Predictor, tissue: NDArray[np.uint8]) -> None:
    seen = count_encodes(fresh)
    with pytest.raises(PromptError):
        fresh.segment(tissue, points=[(512, 5)])
    fresh.segment(tissue, points=[(511, 5)])
    assert len(seen) == 1


# Prompts through the one-line call -----------------------------------------------------------------------------------

MASK = np.zeros((512, 512), dtype=np.uint8)


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ({}, "got no prompt at all; expected at least one of: points, box, mask"),
        ({"labels": [1]}, "got labels without points"),
        ({"points": [(-1, 5)]}, r"0 <= x < 512 and 0 <= y < 512, got \(x, y\) = \(-1.0, 5.0\)"),
        ({"points": [(5, 512)]}, r"got \(x, y\) = \(5.0, 512.0\)"),
        ({"points": [(5, float("nan"))]}, "points must be finite"),
        ({"points": []}, "points must have shape"),
        ({"points": [(1, 2, 3)]}, r"got shape \[1, 3\]"),
        ({"points": "here"}, "points must be numbers, got 'here'"),
        ({"points": [(5, 5)], "labels": [2]}, r"labels must be 1 \(the object\) or 0 \(not the object\), got \[2.0\]"),
        ({"points": [(5, 5)], "labels": [1, 0]}, r"one entry per point, expected 1, got shape \[2\]"),
        ({"box": (10, 10, 10, 20)}, "box must have x0 < x1 and y0 < y1"),
        ({"box": (0, 0, 513, 20)}, "box must lie inside the image, 0 <= x0 < x1 <= 512"),
        ({"box": (1, 2, 3)}, r"box must be 4 numbers \(x0, y0, x1, y1\), got shape \[3\]"),
        ({"mask": MASK[:5]}, r"expected \[512, 512\] bool or integers .* got \[5, 512\] uint8"),
        ({"mask": MASK.astype(float)}, r"low-res logits \[64, 64\] floats; got \[512, 512\] float64"),
    ],
)
def test_a_wrong_prompt_is_refused_with_what_was_expected(
    exported_bundle: Path, tissue: NDArray[np.uint8], prompt: dict[str, Any], message: str
) -> None:
    with pytest.raises(PromptError, match=message):
        samsdk.segment(tissue, **prompt, model=exported_bundle, device="cpu")


def test_segment_answers_as_the_predictor_does(
    exported_bundle: Path, predictor: Predictor, tissue: NDArray[np.uint8]
) -> None:
    prompt = {"points": [(200, 180), (20, 30)], "labels": [1, 0], "box": BOX}
    expected = predictor.decode(predictor.encode(tissue), **prompt)
    result = samsdk.segment(tissue, **prompt, model=exported_bundle, device="cpu")
    np.testing.assert_array_equal(result.mask, expected.mask)
    np.testing.assert_array_equal(result.low_res_logits, expected.low_res_logits)
    assert result.mask.shape == (512, 512)
    assert result.mask.dtype == np.bool_
    assert 0 < result.area == np.count_nonzero(result.mask)


# Zoom ----------------------------------------------------------------------------------------------------------------

SMALL = (240, 200, 300, 240)


def test_zoom_is_encode_and_decode_by_hand(fresh: Predictor, tissue: NDArray[np.uint8]) -> None:
    window = (210, 160, 330, 280)  # twice the longest side of 60, around (270, 220)
    assert zoom_window(SMALL, (512, 512), Zoom()) == window
    expected = fresh.decode(fresh.encode(tissue, window=window), box=SMALL)
    seen = count_encodes(fresh)
    first, second = (fresh.segment(tissue, box=SMALL, zoom=True) for _ in range(2))
    assert seen == [window]
    for result in (first, second):
        np.testing.assert_array_equal(result.mask, expected.mask)
        np.testing.assert_array_equal(result.low_res_logits, expected.low_res_logits)
        assert result.to_dict()["window"] == list(window)
    assert min(first.timings["preprocess"], first.timings["encode"], first.timings["decode"]) > 0
    assert (second.timings["preprocess"], second.timings["encode"]) == (0.0, 0.0)


def test_zoom_left_out_does_what_the_manifest_recommends(
    tiny_bundle: Path, fresh: Predictor, tissue: NDArray[np.uint8]
) -> None:
    assert fresh.segment(tissue, box=SMALL).frame.window == (0, 0, 512, 512)
    manifest = tiny_bundle / "manifest.json"
    data = json.loads(manifest.read_text())
    data["prompts"]["zoom"] = {"context": 3.0, "smallest": 48}
    manifest.write_text(json.dumps(data))
    recommending = samsdk.load(tiny_bundle, device="cpu", threads=1)
    for zoom in (None, True):
        assert recommending.segment(tissue, box=SMALL, zoom=zoom).frame.window == (180, 130, 360, 310)
    assert recommending.segment(tissue, box=SMALL, zoom=False).frame.window == (0, 0, 512, 512)
    segment = samsdk.segment
    assert segment(tissue, box=SMALL, model=tiny_bundle, device="cpu").frame.window == (180, 130, 360, 310)
    assert segment(tissue, box=SMALL, zoom=False, model=tiny_bundle, device="cpu").frame.window == (0, 0, 512, 512)


@pytest.mark.parametrize(
    "prompt",
    [
        {},
        {"labels": [1]},
        {"points": [(5, 512)]},
        {"points": "here"},
        {"points": [(5, 5)], "labels": [1, 0]},
        {"box": (10, 10, 10, 20)},
        {"box": (1, 2, 3)},
        {"box": (0, 0, 513, 20)},
        {"box": (10, 10, 40, 40), "points": [(900, 5)], "labels": [0]},
        {"mask": MASK[:5]},
        {"mask": np.zeros((64, 64), np.float32)},
    ],
)
def test_a_malformed_prompt_is_refused_with_zoom_too(
    predictor: Predictor, tissue: NDArray[np.uint8], prompt: dict[str, Any]
) -> None:
    with pytest.raises(PromptError):
        predictor.segment(tissue, **prompt, zoom=True)


def test_a_correction_of_a_zoomed_result_encodes_nothing_again(fresh: Predictor, tissue: NDArray[np.uint8]) -> None:
    former = fresh.segment(tissue, box=SMALL, zoom=True)
    seen = count_encodes(fresh)
    result = fresh.segment(tissue, box=SMALL, points=[(270, 220)], mask=former, zoom=True)
    expected = fresh.decode(
        fresh.encode(tissue, window=former.frame.window), box=SMALL, points=[(270, 220)], mask=former.low_res_logits[0]
    )
    np.testing.assert_array_equal(result.low_res_logits, expected.low_res_logits)
    assert seen == [former.frame.window]  # by hand only


# One predictor per bundle and device ---------------------------------------------------------------------------------


def test_a_bundle_is_loaded_once_and_again_when_it_is_replaced(
    tiny_bundle: Path, tissue: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[Path] = []
    original = Bundle.open
    monkeypatch.setattr(Bundle, "open", lambda path: opened.append(path) or original(path))
    for _ in range(3):
        samsdk.segment(tissue, box=BOX, model=tiny_bundle, device="cpu")
    samsdk.segment(tissue, box=BOX, model=str(tiny_bundle), device="cpu")
    assert len(opened) == 1
    manifest = tiny_bundle / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"mask_threshold": 0.0', '"mask_threshold": 1000.0'))
    os.utime(manifest, ns=(1, 1))
    assert samsdk.segment(tissue, box=BOX, model=tiny_bundle, device="cpu").area == 0
    assert len(opened) == 2
    manifest.unlink()
    with pytest.raises(BundleError, match=r"it has no manifest.json"):
        samsdk.segment(tissue, box=BOX, model=tiny_bundle, device="cpu")


def test_a_known_model_that_was_never_made_says_how_to_make_it(
    tmp_path: Path, tissue: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch, exported_bundle: Path
) -> None:
    monkeypatch.setenv("SAMSDK_CACHE_DIR", str(tmp_path))
    with pytest.raises(BundleError, match="`samsdk models pull lite-medsam` then `samsdk export lite-medsam`"):
        samsdk.segment(tissue, box=BOX, model="lite-medsam")
    with pytest.raises(
        BundleError, match=r"no bundle at 'sam-huge': .* known model \(student, lite-medsam, .*\), got nothing"
    ):
        samsdk.segment(tissue, box=BOX, model="sam-huge")
    shutil.copytree(exported_bundle, tmp_path / "bundles" / "lite-medsam")
    assert samsdk.segment(tissue, box=BOX, model="lite-medsam").bundle.startswith("tiny@")
    assert samsdk.segment(tissue, box=BOX).bundle.startswith("student@")


# Images --------------------------------------------------------------------------------------------------------------

RNG = np.random.default_rng(3)


def noise(*shape: int) -> NDArray[np.uint8]:
    return RNG.integers(0, 256, shape, dtype=np.uint8)


@pytest.mark.parametrize(
    "image",
    [
        noise(80, 120),
        noise(120, 80),
        noise(80, 120, 1),
        noise(80, 120, 3),
        noise(120, 80, 4),
        noise(80, 120).astype(np.uint16) * 257,
        noise(80, 120).astype(np.int32) - 1000,
        noise(80, 120) / 255,
        noise(80, 120, 3).astype(np.float32),
        noise(80, 120).astype(np.float16) * 100,
        noise(80, 120) > 127,
        np.zeros((80, 120), dtype=np.uint8),
        noise(2, 3),
        noise(1, 1),
        noise(1, 1, 3),
        noise(1, 300),
        noise(300, 1, 3),
        noise(3, 2000),
    ],
    ids=lambda image: f"{'x'.join(map(str, image.shape))}-{image.dtype}",
)
def test_the_mask_has_exactly_the_images_size(predictor: Predictor, image: NDArray[Any]) -> None:
    height, width = image.shape[:2]
    result = predictor.segment(image, box=(0, 0, width, height), points=[(width - 1, height - 1)], multimask=True)
    assert result.mask.shape == (height, width)
    assert result.masks.shape == (3, height, width)
    assert np.isfinite(result.scores).all()
    if result.box is not None:
        x0, y0, x1, y1 = result.box
        assert 0 <= x0 < x1 <= width
        assert 0 <= y0 < y1 <= height
        assert not result.mask[:y0].any()
        assert result.mask[y1 - 1].any()


def test_forms_of_one_image_give_one_mask(predictor: Predictor, tissue: NDArray[np.uint8], tmp_path: Path) -> None:
    expected = predictor.segment(tissue, box=BOX).low_res_logits
    path = tmp_path / "a.png"
    path.write_bytes(png(tissue))
    alpha = np.dstack([tissue, noise(512, 512)])
    for form in (path, str(path), png(tissue), alpha, tissue.astype(np.uint16), tissue.astype(float), tissue / 255):
        np.testing.assert_allclose(predictor.segment(form, box=BOX).low_res_logits, expected, atol=1e-5, rtol=0)


def test_grey_is_the_same_as_three_equal_channels(predictor: Predictor, cell: NDArray[np.uint8]) -> None:
    grey, rgb = (predictor.segment(image, box=BOX) for image in (cell, np.dstack([cell] * 3)))
    np.testing.assert_array_equal(grey.low_res_logits, rgb.low_res_logits)


BROKEN: list[tuple[str, Callable[[Path], object], str]] = [
    ("no file", lambda folder: folder / "absent.png", "expected an image file, found none there; check the path"),
    ("a folder", lambda folder: folder, "expected an image file, got a folder"),
    ("text", lambda _: b"hello, world", "expected PNG, .* got something that is none of them"),
    ("nothing", lambda _: b"", "got 0 bytes; the file is empty"),
    ("truncated", lambda _: png(noise(80, 80, 3))[:-500], "expected a whole PNG file, got one that is truncated"),
    ("no pixel", lambda _: np.zeros((0, 5), np.uint8), "expected at least 1 pixel, got an image of 0 x 5"),
    ("five channels", lambda _: np.zeros((4, 4, 5)), r"expected an image of shape .*, got shape \(4, 4, 5\)"),
    ("one axis", lambda _: np.zeros(7), r"got shape \(7,\)"),
    ("a batch", lambda _: np.zeros((2, 8, 8, 3)), r"got shape \(2, 8, 8, 3\); pass one slice or frame"),
    ("NaN", lambda _: np.array([[0.0, np.nan]]), "contains 1 non-finite values .* of 2"),
    ("inf", lambda _: np.array([[np.inf, -np.inf]]), "contains 2 non-finite values"),
    ("complex", lambda _: np.zeros((4, 4), complex), "got dtype complex128"),
    ("None", lambda _: None, "expected a path, encoded bytes, a numpy array or a PIL image, got NoneType"),
    ("a number", lambda _: 7, "got int"),
]


@pytest.mark.parametrize(("make", "message"), [case[1:] for case in BROKEN], ids=[case[0] for case in BROKEN])
def test_what_is_no_image_is_an_image_error(
    predictor: Predictor, tmp_path: Path, make: Callable[[Path], object], message: str
) -> None:
    image = make(tmp_path)
    for call in (predictor.encode, predictor.set_image, lambda image: predictor.segment(image, box=(0, 0, 1, 1))):
        with pytest.raises(ImageError, match=message):
            call(image)


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_an_image_that_is_too_large_is_refused_before_it_is_copied(predictor: Predictor, dtype: type) -> None:
    huge = np.broadcast_to(np.zeros((), dtype), (20_000, 20_001))  # one value in memory
    tracemalloc.start()
    try:
        for call in (predictor.encode, lambda image: predictor.segment(image, box=(0, 0, 9, 9))):
            with pytest.raises(ImageError, match="expected at most 400000000 pixels, got 20000 x 20001"):
                call(huge)
        assert tracemalloc.get_traced_memory()[1] < 10e6
    finally:
        tracemalloc.stop()


def test_each_tier_has_a_predictor_of_its_own(tiny_bundle: Path, tissue: NDArray[np.uint8]) -> None:
    manifest = json.loads((tiny_bundle / "manifest.json").read_bytes())
    manifest["tiers"]["fast"] = manifest["tiers"]["exact"]
    manifest["parity"]["fast"] = manifest["parity"]["exact"]
    (tiny_bundle / "manifest.json").write_text(json.dumps(manifest))
    for tier in (None, "exact", "fast", "fast"):
        samsdk.segment(tissue, box=BOX, model=tiny_bundle, device="cpu", tier=tier)
    assert [predictor.tier for _, predictor in samsdk._predictors.values()] == ["exact", "exact", "fast"]
    with pytest.raises(samsdk.BundleError, match="has no tier 'balanced'; it has: exact, fast"):
        samsdk.segment(tissue, box=BOX, model=tiny_bundle, device="cpu", tier="balanced")
