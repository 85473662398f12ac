"""The peers of the side-by-side benchmark: how their workers are spoken to, and how they are installed."""

import importlib
import json
import sys
import textwrap
import types
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import skimage.data
from numpy.typing import NDArray

import samsdk
from samsdk.prompts import Prompt

FOLDER = Path(__file__).parents[2] / "benchmarks" / "peers"
BOXES = [[60, 40, 160, 150], [250, 302, 384, 510], [0, 0, 512, 512]]
# Whatever a worker does wrong: what it does for each request, as the body of `encode`.
FAULTY = """
import os, sys
from protocol import Decoded, Peer, serve

class Faulty(Peer):
    def load(self, request):
        print("a library greets")
        os.system("echo and one in another language")
        return {"name": "faulty", "version": "1", "weights": "random", "timed": "all", "excluded": "nothing",
                "threads": os.environ.get("OMP_NUM_THREADS"), "path": os.environ.get("PYTHONPATH")}
    def encode(self, image):
        self.image = image
        FAULT
    def decode(self, prompts):
        return Decoded([self.image[..., 0] > 0] * len(prompts), batched=True)

serve(Faulty())
"""


@pytest.fixture
def modules(monkeypatch: pytest.MonkeyPatch) -> Iterator[types.SimpleNamespace]:
    """The folder's modules by their names, as a script in it imports them."""
    monkeypatch.syspath_prepend(str(FOLDER))
    names = ("catalogue", "install", "lite_medsam", "process", "protocol", "stand_ins")
    yield types.SimpleNamespace(**{name: importlib.import_module(name) for name in names})
    for name in names:
        sys.modules.pop(name)


@pytest.fixture
def faulty(tmp_path: Path) -> "Faulty":
    return Faulty(tmp_path)


class Faulty:
    """Makes worker scripts of which one part goes wrong."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        np.save(folder / "image.npy", np.full((4, 6, 3), 7, np.uint8))
        self.image = str(folder / "image.npy")

    def script(self, fault: str = "pass") -> Path:
        path = self._folder / "faulty_worker.py"
        body = FAULTY.replace("FAULT", textwrap.indent(fault, " " * 8).lstrip())
        path.write_text(f"import sys; sys.path.append({str(FOLDER)!r})\n{body}", encoding="utf-8")
        return path


def test_samsdk_s_worker_answers_with_samsdk_s_own_masks(modules: types.SimpleNamespace, tmp_path: Path) -> None:
    tissue, cell = skimage.data.immunohistochemistry(), skimage.data.cell()
    predictor = samsdk.load(device="cpu", threads=1)
    points, labels = [[(316, 400)], [(100, 90), (120, 100)]], [[1], [1, 0]]
    with modules.process.Worker(Path(sys.executable), FOLDER / "samsdk_worker.py", threads=1) as worker:
        np.save(tmp_path / "tissue.npy", tissue)
        about = worker.cold_start({"device": "cpu"}, tmp_path / "tissue.npy", {"boxes": BOXES[:1]})
        assert about["version"].endswith(predictor.bundle.identity)
        assert about["loaded_ms"] > about["load_ms"] > 0
        assert about["first_mask_ms"] > about["loaded_ms"] + about["first_encode_ms"] + about["first_decode_ms"]
        boxes = _masks(modules, worker, tmp_path, {"boxes": BOXES})
        clicks = _masks(modules, worker, tmp_path, {"points": points, "labels": labels})
        np.save(tmp_path / "cell.npy", cell)
        assert worker.call({"do": "encode", "image": str(tmp_path / "cell.npy")})["ms"] > 0
        grey = _masks(modules, worker, tmp_path, {"boxes": BOXES[:1]})
        assert worker.call({"do": "memory"})["peak_memory_mb"] > 50
        assert worker.end() == 0
    embedding = predictor.encode(tissue)
    _equal(boxes, predictor.decode_batch(embedding, [Prompt(box=box) for box in BOXES]))
    _equal(clicks, predictor.decode_batch(embedding, [Prompt(*one) for one in zip(points, labels, strict=True)]))
    _equal(grey, predictor.decode_batch(predictor.encode(cell), [Prompt(box=BOXES[0])]))
    assert 0 < boxes[0].mean() < 0.5


def test_with_zoom_the_worker_segments(modules: types.SimpleNamespace, tmp_path: Path) -> None:
    tissue = skimage.data.immunohistochemistry()
    np.save(tmp_path / "tissue.npy", tissue)
    predictor = samsdk.load(device="cpu", threads=1)
    plain = predictor.decode(predictor.encode(tissue), box=BOXES[0]).mask
    with modules.process.Worker(Path(sys.executable), FOLDER / "samsdk_worker.py", threads=1) as worker:
        assert worker.load({"device": "cpu", "zoom": True})["zoom"]
        encode = worker.call({"do": "encode", "image": str(tmp_path / "tissue.npy")})["ms"]
        first = worker.call({"do": "decode", "boxes": BOXES[:1], "save": str(tmp_path / "masks.npz")})
        again = worker.call({"do": "decode", "boxes": BOXES[:1]})["ms"]
        worker.call({"do": "encode", "image": str(tmp_path / "tissue.npy")})
        forgotten = worker.call({"do": "decode", "boxes": BOXES[:1]})["ms"]
    assert not first["batched"]
    zoomed = modules.protocol.read_masks(tmp_path / "masks.npz")[0]
    np.testing.assert_array_equal(zoomed, predictor.segment(tissue, zoom=True, box=BOXES[0]).mask)
    assert (zoomed != plain).any()
    # The encoder's time is in the first prompt's, and again after the image was encoded anew.
    assert encode < again < min(first["ms"], forgotten)


def _masks(
    modules: types.SimpleNamespace, worker: object, folder: Path, prompt: dict[str, object]
) -> NDArray[np.bool_]:
    answer = worker.call({"do": "decode", "save": str(folder / "masks.npz"), **prompt})  # type: ignore[attr-defined]
    assert answer["ms"] > 0
    assert answer["batched"]
    masks: NDArray[np.bool_] = modules.protocol.read_masks(folder / "masks.npz")
    return masks


def _equal(masks: NDArray[np.bool_], results: list[samsdk.Result]) -> None:
    assert len(masks) == len(results)
    for mask, result in zip(masks, results, strict=True):
        np.testing.assert_array_equal(mask, result.mask)


def test_what_libraries_print_does_not_reach_the_answers(
    modules: types.SimpleNamespace, faulty: Faulty, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    script = faulty.script("print('noise')\nos.write(1, b'more of it')")
    with modules.process.Worker(Path(sys.executable), script, threads=3) as worker:
        about = worker.load({})
        assert about["threads"] == "3"
        assert about["path"] is None
        worker.call({"do": "encode", "image": faulty.image})
        saved = str(tmp_path / "masks.npz")
        assert worker.call({"do": "decode", "boxes": [[0, 0, 1, 1]] * 3, "save": saved})["batched"]
        np.testing.assert_array_equal(modules.protocol.read_masks(Path(saved)), np.ones((3, 4, 6), bool))


def test_an_error_is_told_and_the_worker_goes_on(modules: types.SimpleNamespace, faulty: Faulty) -> None:
    script = faulty.script("raise OSError('the weights are gone')")
    with modules.process.Worker(Path(sys.executable), script) as worker:
        with pytest.raises(modules.process.WorkerError, match="faulty_worker, encode: OSError: the weights are gone"):
            worker.call({"do": "encode", "image": faulty.image})
        with pytest.raises(modules.process.WorkerError, match=r"expected load, encode, .* got 'dance'"):
            worker.call({"do": "dance"})
        assert worker.load({})["ok"]
        assert worker.end() == 0
        with pytest.raises(modules.process.WorkerError, match="was ended"):
            worker.call({"do": "memory"})


def test_a_worker_that_dies_is_told_with_its_last_words(modules: types.SimpleNamespace, faulty: Faulty) -> None:
    script = faulty.script("sys.stderr.write('no memory left')\nsys.stderr.flush()\nos._exit(7)")
    with (
        modules.process.Worker(Path(sys.executable), script) as worker,
        pytest.raises(modules.process.WorkerError, match=r"ended with status 7; it last said: .*no memory left"),
    ):
        worker.call({"do": "encode", "image": faulty.image})


def test_a_worker_that_hangs_is_ended(modules: types.SimpleNamespace, faulty: Faulty) -> None:
    script = faulty.script("import time; time.sleep(600)")
    with modules.process.Worker(Path(sys.executable), script) as worker:
        with pytest.raises(modules.process.WorkerError, match=r"no answer within 0\.5 s"):
            worker.call({"do": "encode", "image": faulty.image}, timeout=0.5)
        with pytest.raises(modules.process.WorkerError, match="was ended"):
            worker.call({"do": "memory"})


@pytest.mark.parametrize(
    ("request_", "text"),
    [
        ({}, "either boxes or points"),
        ({"boxes": [], "points": [], "labels": []}, "either boxes or points"),
        ({"points": [[[1, 2], [3, 4]]], "labels": [[1]]}, "a label for each point"),
    ],
)
def test_prompts_that_make_no_sense(modules: types.SimpleNamespace, request_: dict[str, object], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        modules.protocol.read_prompts(request_)


def test_images_that_peers_take(modules: types.SimpleNamespace) -> None:
    grey = np.arange(6, dtype=np.uint8).reshape(2, 3)
    np.testing.assert_array_equal(modules.protocol.as_rgb(grey), np.stack([grey] * 3, axis=2))
    for wrong in (grey.astype(np.uint16), np.zeros((2, 3, 4), np.uint8), np.zeros((1, 2, 2, 3), np.uint8)):
        with pytest.raises(ValueError, match="expected uint8"):
            modules.protocol.as_rgb(wrong)


@pytest.mark.parametrize("size", [(512, 512), (300, 512), (640, 401)])
def test_lite_medsam_s_published_preprocessing_is_ours(modules: types.SimpleNamespace, size: tuple[int, int]) -> None:
    from samsdk.transforms import Preprocessing

    image = np.random.default_rng(3).integers(20, 240, (*size, 3), dtype=np.uint8)
    ours = Preprocessing(256, "longest_pad_br", "area", "truncate")
    square, frame = modules.lite_medsam.preprocess(image)
    expected, _ = ours.apply_image(image)
    np.testing.assert_allclose(square, expected, rtol=0, atol=1e-6)
    assert frame.original == size


def test_the_stand_in_resizes_as_pil(modules: types.SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    from PIL import Image

    for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(modules.stand_ins, "_works", lambda name: False)
    assert "stand-in" in modules.stand_ins.provide_torchvision()
    functional = sys.modules["torchvision.transforms.functional"]
    image = skimage.data.immunohistochemistry()
    expected = Image.fromarray(image).resize((90, 40), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(functional.resize(functional.to_pil_image(image), (40, 90)), expected)
    with pytest.raises(NotImplementedError, match="batched_nms"):
        sys.modules["torchvision.ops.boxes"].batched_nms()
    for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
        del sys.modules[name]


def _wheel(folder: Path, value: int) -> None:
    """A package of one module, as a file that pip installs."""
    about = "fake_peer-1.0.dist-info"
    with zipfile.ZipFile(folder / "fake_peer-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("fake_peer.py", f"VALUE = {value}\n")
        wheel.writestr(f"{about}/METADATA", "Metadata-Version: 2.1\nName: fake-peer\nVersion: 1.0\n")
        wheel.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{about}/RECORD", "")


def test_installing_resumes_and_keeps_the_reason_of_a_failure(
    modules: types.SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    requirements, preparation = tmp_path / "fake.txt", tmp_path / "prepare.py"
    requirements.write_text("# all of it\nfake_peer==1.0\n", encoding="utf-8")
    preparation.write_text(
        "import fake_peer, pathlib, sys\n(pathlib.Path(sys.argv[1]) / 'made').write_text(str(fake_peer.VALUE))\n",
        encoding="utf-8",
    )
    environment = modules.catalogue.Environment("fake", requirements, preparation, tmp_path / "peers" / "fake")
    assert environment.unavailable == "not installed: run benchmarks/peers/install.py"

    record = modules.install.install(environment)
    assert "installing the packages failed" in record["error"]
    assert "fake_peer==1.0" in record["error"]
    assert environment.unavailable == record["error"]
    assert json.loads((environment.folder / "installed.json").read_text(encoding="utf-8")) == record

    _wheel(tmp_path, 41)
    record = modules.install.install(environment)
    assert record["versions"]["fake-peer"] == "1.0"
    assert environment.unavailable is None
    assert (environment.folder / "made").read_text(encoding="utf-8") == "41"

    # What is there is left as it is, until what it is made of changes.
    (environment.folder / "made").write_text("untouched", encoding="utf-8")
    _wheel(tmp_path, 42)
    assert modules.install.install(environment) == record
    assert (environment.folder / "made").read_text(encoding="utf-8") == "untouched"


def test_a_changed_or_broken_environment_is_made_again(
    modules: types.SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[str] = []

    def make(environment: object, constraints: object) -> dict[str, str]:
        python = environment.python  # type: ignore[attr-defined]
        python.parent.mkdir(parents=True, exist_ok=True)
        python.touch()
        made.append("made")
        return {"fake": "1.0"}

    monkeypatch.setattr(modules.install, "_make", make)
    requirements = tmp_path / "fake.txt"
    requirements.write_text("fake==1.0\n", encoding="utf-8")
    environment = modules.catalogue.Environment("fake", requirements, None, tmp_path / "fake")
    modules.install.install(environment)
    modules.install.install(environment)
    assert len(made) == 1
    requirements.write_text("fake==1.1\n", encoding="utf-8")
    modules.install.install(environment)
    assert len(made) == 2
    environment.python.unlink()
    assert "interpreter is gone" in environment.unavailable
    modules.install.install(environment)
    assert len(made) == 3


def test_every_peer_has_its_worker_and_exact_versions(modules: types.SimpleNamespace) -> None:
    assert len({peer.name for peer in modules.catalogue.PEERS}) == len(modules.catalogue.PEERS)
    for peer in modules.catalogue.PEERS:
        environment = modules.catalogue.find_environment(peer.environment, Path("peers"))
        assert (FOLDER / peer.worker).is_file()
        assert environment.preparation is None or environment.preparation.is_file()
        pins = modules.install._pins(environment.requirements)
        assert [pin for pin in pins if pin.count("==") != 1 or pin.endswith(".*")] == []
        assert "torch==2.13.0" in pins


def test_an_unknown_peer_is_a_wrong_call(modules: types.SimpleNamespace, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        modules.install.main(["nano_sam"])
    assert stopped.value.code == 2
    assert "unknown: nano_sam; expected some of lite_medsam" in capsys.readouterr().err
