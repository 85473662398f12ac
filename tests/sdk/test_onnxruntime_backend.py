from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

import samsdk
from samsdk import BackendError
from samsdk.backends.onnxruntime import CPU, CUDA, OnnxRuntimeBackend, choose_providers
from samsdk.backends.options import BackendOptions


@pytest.fixture(scope="module")
def graph(exported_bundle: Path) -> bytes:
    return (exported_bundle / "encoder.onnx").read_bytes()


@pytest.fixture
def pretend_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    """onnxruntime says that it has CUDA, and then cannot start it: what a machine without the CUDA libraries does."""
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [CUDA, CPU])


@pytest.fixture
def cpu_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [CPU])


@pytest.mark.usefixtures("cpu_only")
def test_devices_become_provider_lists_on_a_machine_without_cuda() -> None:
    assert choose_providers("cpu") == [CPU]
    assert choose_providers([CPU]) == [CPU]
    assert choose_providers([(CPU, {"use_arena": "0"})]) == [(CPU, {"use_arena": "0"})]
    with pytest.raises(
        BackendError, match=r"device 'cuda' needs CUDAExecutionProvider, this onnxruntime has: CPU.*pip"
    ):
        choose_providers("cuda")
    with pytest.raises(
        BackendError, match="this onnxruntime has no CUDAExecutionProvider; it has: CPUExecutionProvider"
    ):
        choose_providers([CUDA, CPU])


@pytest.mark.usefixtures("pretend_cuda")
def test_devices_become_provider_lists_on_a_machine_with_cuda() -> None:
    expected = [(CUDA, {"arena_extend_strategy": "kSameAsRequested"}), CPU]
    assert choose_providers("cuda") == expected
    assert choose_providers("cpu") == choose_providers("cpu", 512) == [CPU]


@pytest.mark.usefixtures("pretend_cuda")
def test_the_memory_of_the_gpu_is_limited_in_bytes() -> None:
    (name, options), fall_back = choose_providers("cuda", gpu_memory_mb=512)
    assert (name, fall_back) == (CUDA, CPU)
    assert options == {"arena_extend_strategy": "kSameAsRequested", "gpu_mem_limit": "512000000"}
    # The next one, without a limit, is not the worse for it.
    assert choose_providers("cuda")[0] == (CUDA, {"arena_extend_strategy": "kSameAsRequested"})


@pytest.mark.usefixtures("pretend_cuda")
def test_threads_and_memory_reach_the_session(graph: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def start(content: bytes, options: Any, providers: list[Any]) -> None:
        asked.append((content, options.intra_op_num_threads, providers))
        raise RuntimeError("far enough")

    monkeypatch.setattr(onnxruntime, "InferenceSession", start)
    for options in (BackendOptions(threads=3, gpu_memory_mb=2000), BackendOptions()):
        with pytest.raises(BackendError, match="ONNX Runtime cannot load the graph: far enough"):
            OnnxRuntimeBackend(graph, "cuda", options)
    kept = {"arena_extend_strategy": "kSameAsRequested"}
    limited = {**kept, "gpu_mem_limit": "2000000000"}
    assert asked == [(graph, 3, [(CUDA, limited), CPU]), (graph, 0, [(CUDA, kept), CPU])]


@pytest.mark.parametrize(("opset", "ir"), [(99, 10), (18, 99)])
def test_a_graph_that_is_newer_than_the_engine_is_refused_with_the_remedy(opset: int, ir: int) -> None:
    x, y = (onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1]) for name in "xy")
    newer = onnx.helper.make_model(
        onnx.helper.make_graph([onnx.helper.make_node("Relu", ["x"], ["y"])], "newer", [x], [y]),
        opset_imports=[onnx.helper.make_opsetid("", opset)],
        ir_version=ir,
    )
    with pytest.raises(BackendError, match=r"newer than this onnxruntime .* `pip install --upgrade onnxruntime`"):
        OnnxRuntimeBackend(newer.SerializeToString(), "cpu", BackendOptions())


@pytest.mark.usefixtures("cpu_only")
@pytest.mark.parametrize("device", ["gpu", "", "CPU", [], None, 0, [3], [()]])
def test_an_unknown_device_is_refused_with_those_there_are(device: Any, exported_bundle: Path) -> None:
    with pytest.raises(BackendError) as caught:
        samsdk.load(exported_bundle, device=device)
    known = "cpu, cuda, openvino, tensorrt, auto, or a list of: CPUExecutionProvider"
    assert str(caught.value) == f"unknown device {device!r}, expected one of: {known}"


@pytest.mark.usefixtures("pretend_cuda")
@pytest.mark.filterwarnings("ignore:Specified provider")
def test_a_device_that_cannot_be_started_is_not_replaced_by_another(graph: bytes) -> None:
    if CUDA in onnxruntime.capi._pybind_state.get_available_providers():
        pytest.skip("this onnxruntime really has CUDA")
    for device in ("cuda", [CUDA, CPU]):
        with pytest.raises(
            BackendError, match=r"CUDAExecutionProvider could not be started .* CPUExecutionProvider"
        ) as e:
            OnnxRuntimeBackend(graph, device, BackendOptions())
        assert "`pip install onnxruntime-gpu`" in str(e.value)


@pytest.mark.parametrize("threads", [0, -1, 1.5, "2", True])
def test_threads_and_memory_must_be_counts(exported_bundle: Path, threads: Any) -> None:
    for name in ("threads", "gpu_memory_mb"):
        with pytest.raises(BackendError, match=f"{name} must be a whole number of at least 1, got {threads!r}"):
            samsdk.load(exported_bundle, device="cpu", **{name: threads})


def test_the_number_of_threads_does_not_change_the_answer(graph: bytes) -> None:
    image = np.random.default_rng(0).random((1, 3, 64, 64), dtype=np.float32)
    one, two = (OnnxRuntimeBackend(graph, "cpu", BackendOptions(threads)).run({"image": image}) for threads in (1, 2))
    assert list(one) == ["image_embeddings"]
    np.testing.assert_allclose(one["image_embeddings"], two["image_embeddings"], atol=1e-5, rtol=0)


@pytest.mark.parametrize("graph_bytes", [b"", b"no graph"])
def test_what_is_no_graph_is_refused(graph_bytes: bytes) -> None:
    with pytest.raises(BackendError, match="ONNX Runtime cannot load the graph"):
        OnnxRuntimeBackend(graph_bytes, "cpu", BackendOptions())


@pytest.mark.parametrize(
    "feeds",
    [
        {},
        {"picture": np.zeros((1, 3, 64, 64), np.float32)},
        {"image": np.zeros((1, 3, 65, 64), np.float32)},
        {"image": np.zeros((1, 3, 64, 64), np.float64)},
    ],
)
def test_an_engine_that_fails_says_which_provider(graph: bytes, feeds: dict[str, Any]) -> None:
    with pytest.raises(BackendError, match=r"ONNX Runtime failed on CPUExecutionProvider: .*"):
        OnnxRuntimeBackend(graph, "cpu", BackendOptions()).run(feeds)
