"""Which embeddings are kept, with an encoder that only counts."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

import samsdk.recent
from samsdk import Embedding, ImageError
from samsdk.recent import ImageView, RecentEmbeddings
from samsdk.transforms import Preprocessing, Window

WINDOW = (2, 3, 12, 13)


@dataclass
class Encoder:
    calls: list[Window | None] = field(default_factory=list)

    def __call__(self, image: Any, *, window: Window | None = None) -> Embedding:
        self.calls.append(window)
        square, frame = Preprocessing(16).apply_image(image.pixels, window)
        return Embedding({"image_embeddings": square}, frame, "b", "p", {"preprocess": 1.0, "encode": 2.0})


def noise(seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (20, 30)).astype(np.uint8)


def write(path: Path, seed: int = 0) -> Path:
    cv2.imwrite(str(path), noise(seed))
    return path


def test_each_window_is_encoded_once_also_by_another_view() -> None:
    encoder, recent = Encoder(), RecentEmbeddings()
    for view in (ImageView(noise(), encoder, recent), ImageView(noise(), encoder, recent)):
        for window in (None, WINDOW, None, (0, 0, 5, 5), WINDOW):
            assert view.encode(window).frame.window == (window or (0, 0, 30, 20))
    assert encoder.calls == [None, WINDOW, (0, 0, 5, 5)]


def test_who_finds_an_embedding_did_not_wait_for_it() -> None:
    view = ImageView(noise(), Encoder(), RecentEmbeddings())
    assert view.encode(None).timings == {"preprocess": 1.0, "encode": 2.0}
    assert view.encode(None).timings == {"preprocess": 0.0, "encode": 0.0}


def test_another_image_is_not_found() -> None:
    encoder, recent = Encoder(), RecentEmbeddings()
    first, second = (ImageView(noise(seed), encoder, recent).encode(WINDOW) for seed in (0, 1))
    assert encoder.calls == [WINDOW, WINDOW]
    assert (first.image_embeddings != second.image_embeddings).any()


def test_the_sixteen_that_were_used_last_are_kept() -> None:
    encoder, recent = Encoder(), RecentEmbeddings()
    view = ImageView(noise(), encoder, recent)
    windows = [(0, 0, side, side) for side in range(1, 18)]
    for window in [*windows[:16], windows[0], windows[16]]:
        view.encode(window)
    assert encoder.calls == windows
    view.encode(windows[0])
    assert encoder.calls == windows
    view.encode(windows[1])
    assert encoder.calls == [*windows, windows[1]]


def test_a_file_that_was_replaced_meanwhile_is_not_kept(tmp_path: Path) -> None:
    path, recent = write(tmp_path / "a.png"), RecentEmbeddings()
    encoder = Encoder()

    def replacing(image: Any, *, window: Window | None = None) -> Embedding:
        write(path, seed=1)
        return encoder(image, window=window)

    ImageView(path, replacing, recent).encode(None)
    write(path)
    ImageView(path, encoder, recent).encode(None)
    ImageView(path, encoder, recent).encode(None)
    assert len(encoder.calls) == 2


def test_the_size_is_known_without_reading_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, recent = write(tmp_path / "a.png"), RecentEmbeddings()
    view = ImageView(path, Encoder(), recent)
    assert view.size == (20, 30)
    view.encode(WINDOW)

    def refuse(image: object) -> None:
        raise AssertionError("read again")

    monkeypatch.setattr(samsdk.recent, "as_scan", refuse)
    again = ImageView(path, Encoder(), recent)
    assert again.size == (20, 30)
    assert again.encode(WINDOW).frame.window == WINDOW


def test_an_image_is_read_once_for_all_its_windows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, reads = write(tmp_path / "a.png"), []
    as_scan = samsdk.recent.as_scan
    monkeypatch.setattr(samsdk.recent, "as_scan", lambda image: reads.append(image) or as_scan(image))
    view = ImageView(path, Encoder(), RecentEmbeddings())
    assert view.size == (20, 30)
    for window in (None, WINDOW):
        view.encode(window)
    assert reads == [path]


def test_what_is_no_image_is_refused_before_it_is_hashed() -> None:
    with pytest.raises(ImageError):
        ImageView(None, Encoder(), RecentEmbeddings())


def test_threads_find_only_what_they_asked_for() -> None:
    encoder, recent = Encoder(), RecentEmbeddings()

    def work(number: int) -> bool:
        side = 1 + number % 20
        image = noise(number % 3)
        got = ImageView(image, encoder, recent).encode((0, 0, side, side))
        expected = Preprocessing(16).apply_image(image, (0, 0, side, side))[0]
        return bool((got.image_embeddings == expected).all())

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(work, range(300)))
    assert len(recent._kept) == 16
