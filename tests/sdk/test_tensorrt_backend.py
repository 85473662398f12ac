"""The TensorRT backend's own logic, on a device of the host's memory; the GPU itself only where there is one."""

import ctypes
import sys
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from samsdk.backends import tensorrt as module
from samsdk.backends.cuda import open_device
from samsdk.backends.tensorrt import TensorRtBackend
from samsdk.backends.tensorrt_engine import Port
from samsdk.backends.tensorrt_library import _diagnose, load_engine
from samsdk.errors import BackendError, MissingExtraError

FLOAT = np.dtype(np.float32)


class HostMemory:
    """Device memory that lies in the host's, found by its address."""

    def __init__(self, size: int) -> None:
        self.array = np.zeros(max(size, 1), np.uint8)
        self.pointer, self.size = self.array.ctypes.data, size


def at(pointer: int, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """The array that lies at an address."""
    count = int(np.prod(shape))
    if not count:
        return np.zeros(shape, np.float32)
    return np.ctypeslib.as_array((ctypes.c_float * count).from_address(pointer)).reshape(shape)


class HostQueue:
    handle = 7

    def __init__(self, fails: bool = False) -> None:
        self.log: list[str] = []
        self.recording: list[Callable[[], None]] | None = None
        self.fails = fails
        self.memories: list[HostMemory] = []

    def activate(self) -> None:
        self.thread = threading.get_ident()

    def allocate(self, size: int) -> HostMemory:
        self.memories.append(HostMemory(size))
        return self.memories[-1]

    def upload(self, array: NDArray[Any], memory: Any) -> None:
        assert self.thread == threading.get_ident()
        self.log.append("upload")
        memory.array[: array.nbytes] = array.reshape(-1).view(np.uint8)

    def download(self, memory: Any, array: NDArray[Any]) -> None:
        array.reshape(-1).view(np.uint8)[:] = memory.array[: array.nbytes]

    def wait_for(self, stream: int) -> None:
        self.log.append(f"wait {stream}")

    def synchronize(self) -> None:
        self.log.append("synchronize")

    def submit(self, work: Callable[[], None]) -> None:
        if self.recording is None:
            self.log.append("enqueue")
            work()
        else:
            self.recording.append(work)

    def capture(self, work: Callable[[], None]) -> Callable[[], None]:
        if self.fails:
            raise RuntimeError("not permitted when stream is capturing")
        recorded: list[Callable[[], None]] = []
        self.recording = recorded
        work()
        self.recording = None
        self.log.append("capture")

        def launch() -> None:
            self.log.append("launch")
            for each in recorded:
                each()

        return launch


class HostDevice:
    name, target = "Host 1", "sm00"

    def __init__(self, fails: bool = False) -> None:
        self.queues: list[HostQueue] = []
        self.fails = fails

    def open_queue(self) -> HostQueue:
        self.queues.append(HostQueue(self.fails))
        return self.queues[-1]


class SumContext:
    """Adds the embedding's sum to twice the points."""

    def __init__(self) -> None:
        self.places: dict[str, int] = {}
        self.busy = threading.Lock()

    def set_shapes(self, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
        self.shapes = dict(shapes)
        return {"y": shapes["points"]}

    def bind(self, name: str, pointer: int) -> None:
        self.places[name] = pointer

    def enqueue(self, queue: Any) -> None:
        places, shapes = dict(self.places), dict(self.shapes)  # as they are recorded

        def work() -> None:
            assert self.busy.acquire(blocking=False)
            time.sleep(0.001)
            embedding = at(places["embedding"], shapes["embedding"])
            at(places["y"], shapes["points"])[...] = at(places["points"], shapes["points"]) * 2 + embedding.sum()
            self.busy.release()

        queue.submit(work)


class SumEngine:
    def __init__(self, records_graphs: bool = False) -> None:
        self.inputs: Mapping[str, Port] = {
            "embedding": Port(FLOAT, (1, 4), (1, 4)),
            "points": Port(FLOAT, (1, 2), (64, 2)),
        }
        self.outputs: Mapping[str, Port] = {"y": Port(FLOAT)}
        self.records_graphs = records_graphs

    def create_context(self) -> SumContext:
        return SumContext()


class OnDevice:
    """What CuPy, PyTorch and PyCUDA arrays have in common."""

    def __init__(self, array: NDArray[Any], stream: int | None = None, strides: tuple[int, ...] | None = None) -> None:
        self.array = array
        self.__cuda_array_interface__ = {
            "shape": array.shape,
            "typestr": array.dtype.str,
            "data": (array.ctypes.data, False),
            "version": 3,
            "stream": stream,
            "strides": strides,
        }


def feeds_of(points: int, seed: int = 0) -> dict[str, NDArray[np.float32]]:
    random = np.random.default_rng(seed)
    return {
        "embedding": random.normal(size=(1, 4)).astype(np.float32),
        "points": random.normal(size=(points, 2)).astype(np.float32),
    }


def expected(feeds: Mapping[str, Any]) -> NDArray[np.float32]:
    embedding, points = (getattr(feeds[name], "array", feeds[name]) for name in ("embedding", "points"))
    result: NDArray[np.float32] = points * 2 + embedding.sum()
    return result


def test_calls_of_a_shape_are_recorded_the_second_time_and_replayed_from_then_on() -> None:
    device = HostDevice()
    backend = TensorRtBackend.from_parts(SumEngine(), device)
    assert backend.provider == "TensorRT Host 1"
    for seed in range(4):
        feeds = feeds_of(3, seed)
        np.testing.assert_allclose(backend.run(feeds)["y"], expected(feeds), rtol=1e-6)
    (queue,) = device.queues
    done = [entry for entry in queue.log if entry not in ("upload", "synchronize")]
    assert done == ["enqueue", "capture", "launch", "launch", "launch"]


@pytest.mark.parametrize(("switch", "records"), [(False, False), (True, True)])
def test_graphs_can_be_switched_off_and_are_left_to_an_engine_that_records_its_own(switch: bool, records: bool) -> None:
    device = HostDevice()
    backend = TensorRtBackend.from_parts(SumEngine(records), device, cuda_graphs=switch)
    for seed in range(3):
        feeds = feeds_of(2, seed)
        np.testing.assert_allclose(backend.run(feeds)["y"], expected(feeds), rtol=1e-6)
    assert [entry for entry in device.queues[0].log if entry not in ("upload", "synchronize")] == ["enqueue"] * 3


def test_as_many_graphs_are_kept_as_are_used_and_no_more() -> None:
    device = HostDevice()
    backend = TensorRtBackend.from_parts(SumEngine(), device)
    backend.run(feeds_of(64))  # the buffers are as large as they get
    for points in [*range(1, 41), *range(1, 41), 40, 40, 25, 24]:
        feeds = feeds_of(points, points)
        np.testing.assert_allclose(backend.run(feeds)["y"], expected(feeds), rtol=1e-6)
    lane = backend._idle[0]
    assert len(lane._graphs) == module._MOST_GRAPHS
    # Only the shape that came again while it was remembered was recorded.
    assert device.queues[0].log.count("capture") == 2


def test_a_larger_buffer_drops_the_graphs_that_hold_the_old_address() -> None:
    device = HostDevice()
    backend = TensorRtBackend.from_parts(SumEngine(), device)
    for points in (2, 2, 2, 30, 2, 2, 2):
        feeds = feeds_of(points, points)
        np.testing.assert_allclose(backend.run(feeds)["y"], expected(feeds), rtol=1e-6)
    done = [entry for entry in device.queues[0].log if entry not in ("upload", "synchronize")]
    assert done == ["enqueue", "capture", "launch", "launch", "enqueue", "enqueue", "capture", "launch", "launch"]


def test_without_capture_the_backend_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    device = HostDevice(fails=True)
    backend = TensorRtBackend.from_parts(SumEngine(), device)
    for seed in range(4):
        feeds = feeds_of(3, seed)
        np.testing.assert_allclose(backend.run(feeds)["y"], expected(feeds), rtol=1e-6)
    assert caplog.text.count("could not record a CUDA graph, and goes on without: not permitted") == 1


def test_arrays_on_the_device_are_read_in_place() -> None:
    device = HostDevice()
    backend = TensorRtBackend.from_parts(SumEngine(), device)
    feeds: dict[str, Any] = feeds_of(3)
    feeds["embedding"] = OnDevice(feeds["embedding"], stream=42)
    for _ in range(3):  # graphs included
        np.testing.assert_allclose(backend.run(feeds)["y"], expected(feeds), rtol=1e-6)
        feeds["embedding"].array += 1  # the graph reads what is there now
    other = {**feeds, "embedding": OnDevice(feeds_of(3, 9)["embedding"])}
    np.testing.assert_allclose(backend.run(other)["y"], expected(other), rtol=1e-6)
    log = device.queues[0].log
    assert (log.count("upload"), log.count("wait 42"), log.count("capture")) == (4, 3, 1)
    assert sorted({memory.size for memory in device.queues[0].memories}) == [24]  # none for the embedding


def test_outputs_can_stay_on_the_device_and_outlive_the_next_call() -> None:
    device = HostDevice()
    backend = TensorRtBackend.from_parts(SumEngine(), device)
    feeds = feeds_of(3)
    kept = backend.run_on_device(feeds)["y"]
    backend.run_on_device(feeds_of(3, 1))
    backend.run(feeds_of(3, 2))
    assert (kept.shape, kept.dtype) == ((3, 2), FLOAT)
    np.testing.assert_allclose(kept.numpy(), expected(feeds), rtol=1e-6)
    interface = kept.__cuda_array_interface__
    assert (interface["shape"], interface["typestr"], interface["version"]) == ((3, 2), "<f4", 3)
    np.testing.assert_allclose(at(interface["data"][0], (3, 2)), expected(feeds), rtol=1e-6)
    # And goes back in without a copy.
    uploads = device.queues[0].log.count("upload")
    again = backend.run({"embedding": feeds["embedding"], "points": kept})["y"]
    np.testing.assert_allclose(again, expected(feeds) * 2 + feeds["embedding"].sum(), rtol=1e-6)
    assert device.queues[0].log.count("upload") == uploads + 1


def test_eight_threads_answer_as_one_does() -> None:
    device = HostDevice()
    backend = TensorRtBackend.from_parts(SumEngine(), device)
    jobs = [feeds_of(1 + seed % 5, seed) for seed in range(120)]
    with ThreadPoolExecutor(8) as pool:
        got = list(pool.map(backend.run, jobs))
    for feeds, values in zip(jobs, got, strict=True):
        np.testing.assert_allclose(values["y"], expected(feeds), rtol=1e-5)
    assert 1 < len(device.queues) <= 8
    assert len(backend._idle) == len(device.queues)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"points": None}, r"missing points; got \['embedding'\]"),
        ({"points": np.zeros((65, 2), np.float32)}, r"points has shape \(65, 2\), .* built for \(1, 2\) to \(64, 2\)"),
        ({"points": np.zeros((0, 2), np.float32)}, r"points has shape \(0, 2\)"),
        ({"points": np.zeros((1, 2, 1), np.float32)}, r"points has shape \(1, 2, 1\)"),
        ({"points": np.zeros((1, 2))}, "points must be float32, got float64"),
        ({"points": OnDevice(np.zeros((1, 2)))}, "points must be float32, got float64"),
        ({"points": OnDevice(np.zeros((3, 2), np.float32), strides=(4, 12))}, r"C-contiguous .* strides \(4, 12\)"),
    ],
)
def test_feeds_that_do_not_fit_are_refused(change: dict[str, Any], reason: str) -> None:
    backend = TensorRtBackend.from_parts(SumEngine(), HostDevice())
    feeds = {name: array for name, array in (feeds_of(2) | change).items() if array is not None}
    with pytest.raises(BackendError, match=reason):
        backend.run(feeds)
    good = feeds_of(2)
    np.testing.assert_allclose(backend.run(good)["y"], expected(good), rtol=1e-6)


def test_layout_does_not_matter_on_the_host_and_dense_strides_not_on_the_device() -> None:
    backend = TensorRtBackend.from_parts(SumEngine(), HostDevice())
    feeds = feeds_of(5)
    for points in (np.asfortranarray(feeds["points"]), OnDevice(feeds["points"], strides=(8, 4))):
        np.testing.assert_allclose(backend.run({**feeds, "points": points})["y"], expected(feeds), rtol=1e-6)


def test_a_lane_that_failed_is_not_used_again(monkeypatch: pytest.MonkeyPatch) -> None:
    device = HostDevice()
    backend = TensorRtBackend.from_parts(SumEngine(), device)
    backend.run(feeds_of(2))

    def fail(*_: object) -> None:
        raise RuntimeError("CUDA_ERROR_ILLEGAL_ADDRESS")

    monkeypatch.setattr(device.queues[0], "upload", fail)
    with pytest.raises(BackendError, match="TensorRT failed on TensorRT Host 1: CUDA_ERROR_ILLEGAL_ADDRESS"):
        backend.run(feeds_of(2))
    np.testing.assert_allclose(backend.run(feeds_of(2))["y"], expected(feeds_of(2)), rtol=1e-6)
    assert len(device.queues) == 2


class FakeLibrary:
    """A library whose runtime gives one diagnosis."""

    class EngineInvalidityDiagnostics:
        __members__ = {  # noqa: RUF012
            "VERSION_MISMATCH": 1,
            "UNSUPPORTED_CC": 2,
            "OLD_CUDA_DRIVER": 4,
            "INSUFFICIENT_GPU_MEMORY": 16,
            "MALFORMED_ENGINE": 32,
        }

    def __init__(self, flags: int) -> None:
        self.flags = flags

    def get_engine_validity(self, _: bytes) -> tuple[str, int]:
        return "INVALID", self.flags


@pytest.mark.parametrize(
    ("flags", "log", "remedy"),
    [
        (1, [], "another version of the library built it; install that version"),
        (2, ["Error reading plan"], "other GPU generations than this one; export the engine again for this one's"),
        (4, [], "install or update it"),
        (16, [], "free some, or use device='cpu'"),
        (32 + 1, [], "damaged or no engine of this library"),
        (0, ["CUDA (cudaError 35: CUDA driver version is insufficient)"], "no NVIDIA driver that this CUDA can use"),
        (0, ["assertion plan.header.size == blobSize", "cudaError 35"], "cut short; fetch the bundle again"),
        (0, ["Something new", "of some kind"], "Something new; of some kind"),
        (0, [], "it gives no reason"),
    ],
)
def test_each_reason_comes_with_its_remedy(flags: int, log: list[str], remedy: str) -> None:
    library = FakeLibrary(flags)
    assert remedy in _diagnose(library, library, b"", log)


@pytest.mark.parametrize("content", [b"", b"no engine", b"\x08\x0aonnx"])
def test_what_is_no_engine_is_refused_without_any_library(content: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", None)
    with pytest.raises(BackendError, match="cannot load the engine: it is damaged or no engine"):
        TensorRtBackend(content)


@pytest.mark.parametrize(
    ("magic", "name", "command"),
    [(b"vtrt", "tensorrt_rtx", r"pip install 'samsdk\[tensorrt\]'"), (b"ftrt", "tensorrt", "pip install tensorrt")],
)
def test_the_engine_tells_which_library_is_missing(
    magic: bytes, name: str, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MissingExtraError, match=f"device 'tensorrt' needs {name.replace('_', '-')} .*: {command}"):
        load_engine(magic + bytes(100))


def test_without_cuda_core_the_command_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cuda.core", None)
    with pytest.raises(MissingExtraError, match=r"needs cuda-core .*pip install 'samsdk\[tensorrt\]'"):
        open_device()
    assert not module.is_usable()


def test_without_a_driver_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: int) -> None:
        raise RuntimeError('"cuda" is an NVIDIA driver library')

    core = type("Core", (), {"Device": staticmethod(fail)})
    monkeypatch.setattr("samsdk.backends.cuda.importlib.import_module", lambda _: core)
    with pytest.raises(BackendError, match=r"no NVIDIA driver .*device='cpu' \(\"cuda\" is an NVIDIA"):
        open_device()


def test_a_gpu_moves_arrays_and_back() -> None:
    try:
        device = open_device()
    except (BackendError, MissingExtraError) as error:
        pytest.skip(f"cuda.core finds no device: {error}")
    queue = device.open_queue()
    queue.activate()
    values = np.random.default_rng(0).random((3, 1000), dtype=np.float32)
    memory, back = queue.allocate(values.nbytes), np.zeros_like(values)
    queue.upload(values, memory)
    queue.download(memory, back)
    queue.synchronize()
    np.testing.assert_array_equal(back, values)
