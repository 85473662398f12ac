from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

import samsdk
from samsdk import BackendError
from samsdk.backends.onnxruntime import CPU, CUDA, OnnxRuntimeBackend, choose_providers


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
    assert choose_providers("auto") == [CPU]
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
    assert choose_providers("auto") == choose_providers("cuda") == expected
    assert choose_providers("cpu") == [CPU]


@pytest.mark.usefixtures("cpu_only")
@pytest.mark.parametrize("device", ["gpu", "", "CPU", [], None, 0, [3], [()]])
def test_an_unknown_device_is_refused_with_those_there_are(device: Any, exported_bundle: Path) -> None:
    with pytest.raises(BackendError) as caught:
        samsdk.load(exported_bundle, device=device)
    known = "auto, cpu, cuda, openvino, or a list of: CPUExecutionProvider"
    assert str(caught.value) == f"unknown device {device!r}, expected one of: {known}"


@pytest.mark.usefixtures("pretend_cuda")
@pytest.mark.filterwarnings("ignore:Specified provider")
def test_auto_falls_back_with_a_warning_and_a_named_device_does_not(graph: bytes) -> None:
    if CUDA in onnxruntime.capi._pybind_state.get_available_providers():
        pytest.skip("this onnxruntime really has CUDA")
    with pytest.warns(RuntimeWarning, match="CUDAExecutionProvider could not be started .* CPUExecutionProvider would"):
        backend = OnnxRuntimeBackend(graph, "auto")
    assert backend.provider == CPU
    for device in ("cuda", [CUDA, CPU]):
        with pytest.raises(BackendError, match=r"could not be started .* `pip install onnxruntime-gpu`"):
            OnnxRuntimeBackend(graph, device)


@pytest.mark.parametrize("threads", [0, -1, 1.5, "2"])
def test_threads_must_be_a_count(exported_bundle: Path, threads: Any) -> None:
    with pytest.raises(BackendError, match=f"threads must be a whole number of at least 1, got {threads!r}"):
        samsdk.load(exported_bundle, device="cpu", threads=threads)


def test_the_number_of_threads_does_not_change_the_answer(graph: bytes) -> None:
    image = np.random.default_rng(0).random((1, 3, 64, 64), dtype=np.float32)
    one, two = (OnnxRuntimeBackend(graph, "cpu", threads).run({"image": image}) for threads in (1, 2))
    assert list(one) == ["image_embeddings"]
    np.testing.assert_allclose(one["image_embeddings"], two["image_embeddings"], atol=1e-5, rtol=0)


@pytest.mark.parametrize("graph_bytes", [b"", b"no graph"])
def test_what_is_no_graph_is_refused(graph_bytes: bytes) -> None:
    with pytest.raises(BackendError, match="ONNX Runtime cannot load the graph"):
        OnnxRuntimeBackend(graph_bytes, "cpu")


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
        OnnxRuntimeBackend(graph, "cpu").run(feeds)
