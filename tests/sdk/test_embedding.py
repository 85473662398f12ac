import io
import json
import pickle
import re
import zipfile
from dataclasses import FrozenInstanceError
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from samsdk import BundleError, Embedding, OutputError, Predictor, Result
from samsdk.transforms import Frame

NOT_ONE = "is not an embedding that samsdk saved"


@pytest.fixture
def embedding(predictor: Predictor, cell: NDArray[np.uint8]) -> Embedding:
    return predictor.encode(cell)


@pytest.fixture
def saved(embedding: Embedding, tmp_path: Path) -> Path:
    embedding.save(tmp_path / "cell.npz")
    return tmp_path / "cell.npz"


def about(path: Path) -> dict[str, Any]:
    with np.load(path) as archive:
        return dict(json.loads(str(archive["about"])))


def rewrite(path: Path, changes: dict[str, Any], **arrays: NDArray[Any]) -> None:
    """Change what a saved embedding says about itself; None takes an entry away."""
    entries = {key: value for key, value in (about(path) | changes).items() if value is not None}
    with np.load(path) as archive:
        kept = {name: archive[name] for name in archive.files if name != "about"}
    np.savez(path, about=np.array(json.dumps(entries)), **(kept | arrays))


def same(first: Result, second: Result) -> None:
    for name in ("low_res_logits", "scores", "masks"):
        np.testing.assert_array_equal(getattr(first, name), getattr(second, name))


def test_what_encode_returns(embedding: Embedding, predictor: Predictor) -> None:
    assert embedding.frame == Frame((660, 550), (64, 53), 64, (0, 0, 550, 660))
    assert embedding.image_embeddings.shape == (1, 32, 16, 16)
    assert embedding.image_embeddings.dtype == np.float32
    assert embedding.bundle == predictor.bundle.identity
    assert embedding.provider == "CPUExecutionProvider"
    assert set(embedding.timings) == {"preprocess", "encode"}
    assert all(value > 0 for value in embedding.timings.values())


def test_nothing_of_it_can_be_changed(embedding: Embedding) -> None:
    with pytest.raises(ValueError, match="read-only"):
        embedding.image_embeddings[0, 0, 0, 0] = 1
    with pytest.raises(ValueError, match="read-only"):
        embedding.tensors["image_embeddings"] += 1
    with pytest.raises(TypeError, match="does not support item assignment"):
        embedding.tensors["image_embeddings"] = np.zeros(3)  # type: ignore[index]
    with pytest.raises(TypeError, match="does not support item assignment"):
        embedding.timings["encode"] = 0.0  # type: ignore[index]
    for name in ("tensors", "frame", "bundle", "provider", "timings"):
        with pytest.raises(FrozenInstanceError):
            setattr(embedding, name, None)
    with pytest.raises(FrozenInstanceError):
        embedding.frame.input_size = 1  # type: ignore[misc]


def test_the_dictionaries_it_was_made_of_are_not_its_own() -> None:
    tensors = {"image_embeddings": np.zeros((1, 2, 3, 3), np.float32)}
    timings = {"encode": 1.0}
    embedding = Embedding(tensors, Frame((4, 4), (8, 8), 8, (0, 0, 4, 4)), "b", "p", timings)
    tensors["more"] = np.zeros(1, np.float32)
    timings["encode"] = 2.0
    assert list(embedding.tensors) == ["image_embeddings"]
    assert embedding.timings == {"encode": 1.0}


@pytest.mark.parametrize("size", [(660, 550), (40, 90), (1, 7), (64, 64)])
def test_save_and_load_are_exact(predictor: Predictor, tmp_path: Path, size: tuple[int, int]) -> None:
    image = np.random.default_rng(size).integers(0, 256, (*size, 3)).astype(np.uint8)
    embedding = predictor.encode(image)
    # As text and as a path; numpy would add a suffix to a name that has none.
    embedding.save(str(tmp_path / "image.embedding"))
    assert [path.name for path in tmp_path.iterdir()] == ["image.embedding"]
    for path in (tmp_path / "image.embedding", str(tmp_path / "image.embedding")):
        loaded = Embedding.load(path)
        assert loaded.frame == embedding.frame
        assert (loaded.bundle, loaded.provider) == (embedding.bundle, embedding.provider)
        assert set(loaded.tensors) == set(embedding.tensors)
        for name, tensor in embedding.tensors.items():
            assert loaded.tensors[name].dtype == tensor.dtype
            np.testing.assert_array_equal(loaded.tensors[name], tensor)
    with pytest.raises(ValueError, match="read-only"):
        loaded.image_embeddings[:] = 0


def test_a_window_survives_saving_and_loading(predictor: Predictor, cell: NDArray[np.uint8], tmp_path: Path) -> None:
    # Whole numbers of numpy are whole numbers too.
    x0, y0, x1, y1 = np.array([150, 200, 420, 500])
    embedding = predictor.encode(cell, window=(x0, y0, x1, y1))
    embedding.save(tmp_path / "a.npz")
    loaded = Embedding.load(tmp_path / "a.npz")
    assert loaded.frame == embedding.frame == Frame((660, 550), (64, 58), 64, (150, 200, 420, 500))
    box = (200, 250, 380, 450)
    same(predictor.decode(loaded, box=box), predictor.decode(embedding, box=box))


def test_a_file_of_the_first_format_is_refused_by_name(saved: Path) -> None:
    rewrite(saved, {"format": 1, "window": None})
    with pytest.raises(BundleError, match=r"is an embedding of format 1, this samsdk reads 2"):
        Embedding.load(saved)


def test_the_file_holds_these_entries_and_no_more(saved: Path) -> None:
    # A keyword that numpy does not know, as older ones lack `allow_pickle`, would become one more array.
    with np.load(saved, allow_pickle=False) as archive:
        assert sorted(archive.files) == ["about", "tensor_image_embeddings"]
    frame = {"original_size", "resized_size", "input_size", "window"}
    assert about(saved).keys() == {"format", "bundle", "provider", "spacing", "source"} | frame


def test_a_file_that_says_nothing_of_its_scan_is_read(saved: Path) -> None:
    rewrite(saved, {"spacing": None, "source": None})
    loaded = Embedding.load(saved)
    assert (loaded.spacing, loaded.source) == (None, None)
    for wrong in ([0.5], [0.5, -1.0], ["a", "b"]):
        rewrite(saved, {"spacing": wrong})
        with pytest.raises(BundleError, match="is not an embedding that samsdk saved"):
            Embedding.load(saved)


def test_an_array_that_is_no_tensor_is_left_alone(saved: Path) -> None:
    rewrite(saved, {}, allow_pickle=np.array(False))
    assert list(Embedding.load(saved).tensors) == ["image_embeddings"]


@pytest.mark.parametrize(
    "prompt",
    [
        {"box": (150, 200, 420, 500)},
        {"points": [[270, 330], [20, 30]], "labels": [1, 0]},
        {"box": (150, 200, 420, 500), "mask": np.linspace(-5, 5, 4096).reshape(64, 64)},
    ],
)
def test_decode_after_load_is_decode_before(
    predictor: Predictor, embedding: Embedding, saved: Path, prompt: dict[str, Any]
) -> None:
    for multimask in (False, True):
        before = predictor.decode(embedding, multimask=multimask, **prompt)
        after = predictor.decode(Embedding.load(saved), multimask=multimask, **prompt)
        same(before, after)
        # Nothing was preprocessed or encoded, and both stages are still named.
        assert after.timings["preprocess"] == after.timings["encode"] == 0.0
        assert set(after.timings) == set(before.timings)


def test_decode_leaves_the_handle_as_it_was(predictor: Predictor, embedding: Embedding) -> None:
    before = embedding.image_embeddings.copy()
    first = predictor.decode(embedding, box=(150, 200, 420, 500))
    predictor.decode(embedding, points=[[5, 5]], multimask=True)
    same(first, predictor.decode(embedding, box=(150, 200, 420, 500)))
    np.testing.assert_array_equal(embedding.image_embeddings, before)


def test_another_bundle_refuses_it(predictor: Predictor, embedding: Embedding, saved: Path) -> None:
    rewrite(saved, {"bundle": "other@feedfacefeedface"})
    with pytest.raises(BundleError) as caught:
        predictor.decode(Embedding.load(saved), box=(1, 2, 30, 40))
    assert str(caught.value).startswith("the embedding was made by bundle other@feedfacefeedface, this predictor runs ")
    assert embedding.bundle in str(caught.value)


def refused(path: Path, text: str) -> None:
    with pytest.raises(BundleError, match=re.escape(text)) as caught:
        Embedding.load(path)
    assert str(path) in str(caught.value)
    # The text must never advise what numpy's own does.
    assert "unsafe" not in str(caught.value)


def test_a_missing_file(tmp_path: Path) -> None:
    refused(tmp_path / "none.npz", "No such file")
    refused(tmp_path, NOT_ONE)


@pytest.mark.parametrize(
    "content", [b"", b"PK", b"not an archive at all", b"\x89PNG\r\n\x1a\n" + bytes(50), bytes(1000)]
)
def test_garbage(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "garbage.npz"
    path.write_bytes(content)
    refused(path, f"{NOT_ONE}: it is no whole .npz file; encode the image again")


def test_other_files_of_numpy(tmp_path: Path) -> None:
    np.save(tmp_path / "array.npy", np.zeros((1, 32, 16, 16), np.float32))
    refused(tmp_path / "array.npy", f"{NOT_ONE}: it is no whole .npz file")
    np.savez(tmp_path / "other.npz", image_embeddings=np.zeros((1, 32, 16, 16), np.float32))
    refused(tmp_path / "other.npz", "about is not a file in the archive")


def test_a_truncated_file_at_any_length(saved: Path) -> None:
    whole = saved.read_bytes()
    for length in (*range(0, len(whole), 997), len(whole) - 1):
        saved.write_bytes(whole[:length])
        refused(saved, NOT_ONE)


def test_damage_is_noticed_or_harmless(embedding: Embedding, saved: Path) -> None:
    whole = saved.read_bytes()
    rng = np.random.default_rng(0)
    # Every byte at the front and at the back, where the headers are: they have the most ways to go wrong.
    places = np.concatenate(
        [np.arange(0, 700), np.arange(len(whole) - 300, len(whole)), rng.integers(0, len(whole), 50)]
    )
    noticed = 0
    for place in places.tolist():
        damaged = bytearray(whole)
        damaged[place] ^= int(rng.integers(1, 256))
        saved.write_bytes(damaged)
        try:
            loaded = Embedding.load(saved)
        except BundleError:
            noticed += 1
            continue
        # Dates, permissions and the like may change; what is decoded may not.
        np.testing.assert_array_equal(loaded.image_embeddings, embedding.image_embeddings)
        assert (loaded.frame, loaded.bundle) == (embedding.frame, embedding.bundle)
    assert noticed > len(places) // 2


class Bomb:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("member", ["about", "tensor_image_embeddings", "tensor_more"])
def test_a_pickle_is_refused_and_not_run(saved: Path, tmp_path: Path, member: str) -> None:
    bomb = np.empty(1, object)
    bomb[0] = Bomb(tmp_path / "ran")
    with np.load(saved) as archive:
        arrays = {name: archive[name] for name in archive.files} | {member: bomb}
    np.savez(saved, **arrays)
    refused(saved, "Object arrays cannot be loaded")
    assert not (tmp_path / "ran").exists()
    # The bomb itself works, or this test would show nothing.
    np.load(saved, allow_pickle=True)[member]
    assert (tmp_path / "ran").exists()


def test_a_bare_pickle_is_refused_and_not_run(tmp_path: Path) -> None:
    path = tmp_path / "bare.npz"
    path.write_bytes(pickle.dumps(Bomb(tmp_path / "ran")))
    refused(path, f"{NOT_ONE}: it is no whole .npz file")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "changes",
    [
        {"format": None},
        {"bundle": None},
        {"provider": None},
        {"input_size": None},
        {"original_size": 660},
        {"resized_size": [64]},
        {"original_size": ["a", "b"]},
        {"input_size": float("inf")},
        {"input_size": "large"},
    ],
)
def test_an_entry_that_is_missing_or_malformed(saved: Path, changes: dict[str, Any]) -> None:
    rewrite(saved, changes)
    refused(saved, NOT_ONE)


@pytest.mark.parametrize("text", ["", "null", "[1]", "7", "{", '"format"'])
def test_an_about_that_is_no_object(saved: Path, text: str) -> None:
    with np.load(saved) as archive:
        tensor = archive["tensor_image_embeddings"]
    np.savez(saved, about=np.array(text), tensor_image_embeddings=tensor)
    refused(saved, NOT_ONE)


def test_a_later_format_is_named(saved: Path) -> None:
    rewrite(saved, {"format": 3})
    refused(saved, "is an embedding of format 3, this samsdk reads 2")


def test_an_archive_without_the_embedding(saved: Path) -> None:
    text = json.dumps(about(saved))
    np.savez(saved, about=np.array(text), tensor_other=np.zeros(3, np.float32))
    refused(saved, "image_embeddings")


def test_an_archive_of_something_else(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("about", json.dumps({"format": 1}))
    path = tmp_path / "other.zip"
    path.write_bytes(buffer.getvalue())
    refused(path, NOT_ONE)


def test_a_folder_that_is_missing_leaves_nothing(embedding: Embedding, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="does not exist; create it first"):
        embedding.save(tmp_path / "missing" / "cell.npz")
    assert list(tmp_path.iterdir()) == []
