import hashlib
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

import samsdk
from samsdk import BackendError, MissingExtraError, Predictor
from samsdk.backends import open_graph
from samsdk.backends.onnxruntime import OnnxRuntimeBackend
from samsdk.backends.openvino import OpenVinoBackend, is_installed
from samsdk.backends.options import BackendOptions
from samsdk.tiers import Graph

needs_openvino = pytest.mark.skipif(not is_installed(), reason="openvino is not installed")


def computes_bfloat16() -> bool:
    """Whether OpenVINO computes in bfloat16 here; without the processor's instructions it takes float32 instead."""
    if not is_installed():
        return False
    import openvino

    return "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


FULL = Graph("graph.onnx", "float32")
# Prompts and tokens of one call; no tokens at all is a mask alone.
SHAPES = [(1, 2), (1, 0), (3, 1), (16, 2), (2, 7), (1, 1), (5, 0)]


@pytest.fixture(scope="module")
def encoder(exported_bundle: Path) -> bytes:
    return (exported_bundle / "encoder.onnx").read_bytes()


@pytest.fixture(scope="module")
def decoder(exported_bundle: Path) -> bytes:
    return (exported_bundle / "decoder.onnx").read_bytes()


def feeds_of(prompts: int, tokens: int) -> dict[str, NDArray[np.float32]]:
    """What the tiny model's decoder takes; the embedding is read-only, as the one in a handle is."""
    random = np.random.default_rng(prompts * 100 + tokens)
    embedding = random.normal(size=(1, 32, 16, 16)).astype(np.float32)
    embedding.flags.writeable = False
    return {
        "image_embeddings": embedding,
        "point_coords": random.uniform(0, 64, (prompts, tokens, 2)).astype(np.float32),
        "point_labels": random.integers(0, 4, (prompts, tokens)).astype(np.float32),
        "mask_input": random.normal(size=(prompts, 1, 64, 64)).astype(np.float32) * 4,
        "has_mask_input": (np.arange(prompts) % 2 == 0).astype(np.float32),
    }


def small_graph() -> bytes:
    """Two outputs of one value, whose names OpenVINO merges, and an input that no node uses, which it drops."""
    value = helper.make_tensor_value_info
    nodes = [("Relu", "x", "middle"), ("Identity", "middle", "first"), ("Identity", "middle", "second")]
    graph = helper.make_graph(
        [helper.make_node(kind, [source], [target]) for kind, source, target in nodes],
        "small",
        [value(name, TensorProto.FLOAT, ["N", 2]) for name in ("x", "unused")],
        [value(name, TensorProto.FLOAT, ["N", 2]) for name in ("first", "second")],
    )
    model: onnx.ModelProto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    return model.SerializeToString()


@needs_openvino
def test_both_backends_agree_on_any_number_of_prompts_and_tokens(decoder: bytes) -> None:
    # One backend for all shapes, twice: its requests are used again with others.
    openvino, onnxruntime = (open_graph(decoder, FULL, device, BackendOptions()) for device in ("openvino", "cpu"))
    assert (openvino.provider, onnxruntime.provider) == ("OpenVINO CPU", "CPUExecutionProvider")
    for prompts, tokens in SHAPES * 2:
        feeds = feeds_of(prompts, tokens)
        mine, theirs = openvino.run(feeds), onnxruntime.run(feeds)
        assert list(mine) == list(theirs) == ["low_res_masks", "iou_predictions"]
        for name, expected in theirs.items():
            assert (mine[name].dtype, mine[name].shape) == (np.float32, expected.shape)
            np.testing.assert_allclose(mine[name], expected, atol=1e-4, rtol=0)
        # A tolerance far below what is compared.
        assert theirs["low_res_masks"].std() > 0.1


@needs_openvino
def test_a_predictor_answers_as_on_onnxruntime(
    exported_bundle: Path, predictor: Predictor, tissue: NDArray[np.uint8]
) -> None:
    other = samsdk.load(exported_bundle, device="openvino", threads=1)
    for prompt in ({"box": (120, 100, 300, 260)}, {"points": [(200, 180), (30, 40)], "labels": [1, 0]}):
        mine, theirs = other.segment(tissue, **prompt), predictor.segment(tissue, **prompt)
        assert (mine.provider, theirs.provider) == ("OpenVINO CPU", "CPUExecutionProvider")
        np.testing.assert_allclose(mine.low_res_logits, theirs.low_res_logits, atol=1e-4, rtol=0)
        np.testing.assert_allclose(mine.scores, theirs.scores, atol=1e-4, rtol=0)
    assert (
        samsdk.segment(tissue, box=(1, 2, 90, 80), model=exported_bundle, device="openvino").provider == other.provider
    )


@needs_openvino
def test_eight_threads_answer_as_one_does(decoder: bytes) -> None:
    backend = OpenVinoBackend(decoder, FULL, BackendOptions())
    jobs = [feeds_of(*shape) for shape in SHAPES] * 6
    expected = [backend.run(feeds) for feeds in jobs]
    with ThreadPoolExecutor(8) as pool:
        got = list(pool.map(backend.run, jobs))
    for alone, threaded in zip(expected, got, strict=True):
        for name, values in alone.items():
            np.testing.assert_array_equal(threaded[name], values)
    assert 1 <= len(backend._idle) <= 8


@needs_openvino
def test_outputs_outlive_the_next_call_and_the_backend(decoder: bytes) -> None:
    backend = OpenVinoBackend(decoder, FULL, BackendOptions())
    outputs = backend.run(feeds_of(1, 2))
    copies = {name: values.copy() for name, values in outputs.items()}
    backend.run(feeds_of(1, 3))
    del backend
    for name, values in outputs.items():
        np.testing.assert_array_equal(values, copies[name])
        values += 1  # and they are the caller's


@needs_openvino
def test_precision_latency_and_threads_are_what_was_asked_for(encoder: bytes) -> None:
    compiled = OpenVinoBackend(encoder, FULL, BackendOptions(threads=1))._compiled
    assert compiled.get_property("INFERENCE_PRECISION_HINT").to_dtype() == np.float32
    assert compiled.get_property("PERFORMANCE_HINT") == "LATENCY"
    assert compiled.get_property("INFERENCE_NUM_THREADS") == 1
    assert compiled.get_property("ENABLE_CPU_PINNING") is False
    image = np.random.default_rng(0).random((1, 3, 64, 64), dtype=np.float32)
    one, two = (
        OpenVinoBackend(encoder, FULL, BackendOptions(threads)).run({"image": image})["image_embeddings"]
        for threads in (1, 2)
    )
    np.testing.assert_allclose(one, two, atol=1e-5, rtol=0)


@needs_openvino
def test_names_are_those_of_the_file_and_layout_does_not_matter() -> None:
    x = np.array([[1, -2], [3, 4], [5, 6]], np.float32)
    graph = small_graph()
    for feeds in ({"x": x, "unused": x}, {"x": np.asfortranarray(x), "unused": x}, {"x": x[::-1][::-1], "unused": x}):
        mine, theirs = (open_graph(graph, FULL, device, BackendOptions()).run(feeds) for device in ("openvino", "cpu"))
        assert list(mine) == list(theirs) == ["first", "second"]
        for name in mine:
            np.testing.assert_array_equal(mine[name], np.maximum(x, 0))
            np.testing.assert_array_equal(mine[name], theirs[name])


@needs_openvino
@pytest.mark.parametrize("graph", [b"", b"no graph"])
def test_what_is_no_graph_is_refused(graph: bytes) -> None:
    with pytest.raises(BackendError, match="OpenVINO cannot load the graph"):
        OpenVinoBackend(graph, FULL, BackendOptions())


@needs_openvino
@pytest.mark.parametrize(
    ("feeds", "reason"),
    [
        ({}, r"missing image; got \[\]"),
        ({"picture": np.zeros((1, 3, 64, 64), np.float32)}, r"missing image; got \['picture'\]"),
        ({"image": np.zeros((1, 3, 65, 64), np.float32)}, ".*"),
        ({"image": np.zeros((3, 64, 64), np.float32)}, ".*"),
        ({"image": np.zeros((1, 3, 64, 64), np.float64)}, "image must be float32, got float64"),
    ],
)
def test_what_onnxruntime_refuses_is_refused(encoder: bytes, feeds: dict[str, Any], reason: str) -> None:
    backend = OpenVinoBackend(encoder, FULL, BackendOptions())
    with pytest.raises(BackendError, match=f"OpenVINO failed on OpenVINO CPU: {reason}"):
        backend.run(feeds)
    with pytest.raises(BackendError):
        OnnxRuntimeBackend(encoder, "cpu", BackendOptions()).run(feeds)
    # And the next call is not the worse for it.
    assert backend.run({"image": np.zeros((1, 3, 64, 64), np.float32)})["image_embeddings"].shape == (1, 32, 16, 16)


@pytest.mark.parametrize("threads", [0, -1, 1.5, "2"])
def test_threads_must_be_a_count(exported_bundle: Path, threads: Any) -> None:
    with pytest.raises(BackendError, match=f"threads must be a whole number of at least 1, got {threads!r}"):
        samsdk.load(exported_bundle, device="openvino", threads=threads)


def test_without_openvino_the_command_is_named(exported_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(MissingExtraError) as caught:
        samsdk.load(exported_bundle, device="openvino")
    assert str(caught.value) == "device 'openvino' needs openvino: pip install 'samsdk[openvino]'"
    assert not is_installed()
    # Nobody else is the worse for it.
    assert samsdk.load(exported_bundle).provider != "OpenVINO CPU"
    assert sys.modules.get("openvino_telemetry", os) is not None


@needs_openvino
def test_openvino_reports_nothing_and_leaves_no_identifier(exported_bundle: Path, tmp_path: Path) -> None:
    code = """
import json, sys
import samsdk
early = "openvino" in sys.modules
provider = samsdk.load(sys.argv[1], device="openvino").provider
print(json.dumps([early, provider, [name for name in sys.modules if "telemetry" in name.partition(".")[0]]]))
"""
    # Out of CI, where it would keep quiet on its own.
    keep = {name: value for name, value in os.environ.items() if name not in ("CI", "TF_BUILD", "JENKINS_URL")}
    process = subprocess.run(
        [sys.executable, "-c", code, str(exported_bundle)],
        env={**keep, "HOME": str(tmp_path), "LOCALAPPDATA": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(process.stdout) == [False, "OpenVINO CPU", []]
    assert [entry.name for entry in tmp_path.iterdir() if "intel" in entry.name.lower()] == []


# Lower precision and compiled graphs ----------------------------------------------------------------------------------


def two_products() -> bytes:
    """Two layers that multiply the same 64 inputs with weights of their own; OpenVINO names them by their outputs."""
    value = helper.make_tensor_value_info
    random = np.random.default_rng(0)
    weights = [random.normal(size=(64, 48)).astype(np.float32) for _ in range(2)]
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", f"w_{name}"], [f"y_{name}"], name) for name in ("one", "two")],
        "products",
        [value("x", TensorProto.FLOAT, ["N", 64])],
        [value(f"y_{name}", TensorProto.FLOAT, ["N", 48]) for name in ("one", "two")],
        [numpy_helper.from_array(one, f"w_{name}") for name, one in zip(("one", "two"), weights, strict=True)],
    )
    model: onnx.ModelProto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    return model.SerializeToString()


def in_bfloat16(values: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Which values bfloat16 holds exactly: those with nothing in the lower half of their 32 bits."""
    return np.ascontiguousarray(values).view(np.uint32) & 0xFFFF == 0


@pytest.mark.skipif(not computes_bfloat16(), reason="OpenVINO does not compute in bfloat16 on this processor")
def test_lowered_layers_compute_in_bfloat16_and_no_others_do() -> None:
    content = two_products()
    x = np.random.default_rng(1).normal(size=(32, 64)).astype(np.float32)
    full = OpenVinoBackend(content, FULL, BackendOptions()).run({"x": x})
    assert not in_bfloat16(full["y_one"]).all()
    for name, other in (("y_one", "y_two"), ("y_two", "y_one")):
        graph = Graph("graph.onnx", "bfloat16", (name,))
        lowered = OpenVinoBackend(content, graph, BackendOptions()).run({"x": x})
        assert list(lowered) == list(full)
        np.testing.assert_array_equal(lowered[other], full[other])
        assert in_bfloat16(lowered[name]).all()
        # 8 bits of mantissa, of both factors and of the result: a relative error of 2^-9 to each.
        error = np.abs(lowered[name] - full[name]).std() / full[name].std()
        assert 2**-11 < error < 2**-7
    both = OpenVinoBackend(content, Graph("graph.onnx", "bfloat16", ("y_one", "y_two")), BackendOptions()).run({"x": x})
    assert all(in_bfloat16(values).all() for values in both.values())


@needs_openvino
def test_a_layer_that_is_not_there_is_refused_with_what_to_do() -> None:
    graph = Graph("graph.onnx", "bfloat16", ("y_one", "three", "four"))
    with pytest.raises(BackendError) as caught:
        OpenVinoBackend(two_products(), graph, BackendOptions())
    assert "names layers differently: 2 of 3 that the plan names are not there, e.g. three; install" in str(
        caught.value
    )
    with pytest.raises(BackendError, match="OpenVINO cannot load the graph"):
        OpenVinoBackend(two_products(), Graph("graph.onnx", "int8", ("y_one",)), BackendOptions())


@needs_openvino
def test_the_encoder_is_compiled_for_one_image_and_the_decoder_for_any_number_of_prompts(
    encoder: bytes, decoder: bytes
) -> None:
    (image,) = OpenVinoBackend(encoder, FULL, BackendOptions())._compiled.inputs
    assert list(image.partial_shape.to_shape()) == [1, 3, 64, 64]
    ports = {port.any_name: port for port in OpenVinoBackend(decoder, FULL, BackendOptions())._compiled.inputs}
    assert ports["point_coords"].partial_shape[0].is_dynamic


@needs_openvino
def test_the_second_load_takes_the_compiled_graph_of_the_first(tmp_path: Path) -> None:
    content = two_products()
    x = np.random.default_rng(1).normal(size=(4, 64)).astype(np.float32)
    options = BackendOptions(cache=tmp_path / "not yet" / "compiled")
    first = OpenVinoBackend(content, FULL, options)
    assert not first.from_cache
    (blob,) = (tmp_path / "not yet" / "compiled").iterdir()
    second = OpenVinoBackend(content, FULL, options)
    assert second.from_cache
    for name, values in first.run({"x": x}).items():
        np.testing.assert_array_equal(second.run({"x": x})[name], values)
    # The same file in another precision is another graph.
    lowered = OpenVinoBackend(content, Graph("graph.onnx", "bfloat16", ("y_one",)), options)
    assert not lowered.from_cache
    assert len(list(blob.parent.iterdir())) == 2
    again = OpenVinoBackend(content, Graph("graph.onnx", "bfloat16", ("y_one",)), options)
    assert again.from_cache
    outputs = again.run({"x": x})
    assert (in_bfloat16(outputs["y_one"]).all(), in_bfloat16(outputs["y_two"]).all()) == (computes_bfloat16(), False)


@needs_openvino
@pytest.mark.parametrize("damage", ["flip", "cut", "empty"])
def test_a_damaged_compiled_graph_is_made_again(tmp_path: Path, damage: str) -> None:
    content, options = two_products(), BackendOptions(cache=tmp_path)
    x = np.random.default_rng(1).normal(size=(4, 64)).astype(np.float32)
    first = OpenVinoBackend(content, FULL, options)
    (file,) = tmp_path.iterdir()
    whole = file.read_bytes()
    middle = len(whole) // 2
    flipped = whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :]
    file.write_bytes({"flip": flipped, "cut": whole[:-7], "empty": b""}[damage])
    second = OpenVinoBackend(content, FULL, options)
    assert not second.from_cache
    for name, values in first.run({"x": x}).items():
        np.testing.assert_array_equal(second.run({"x": x})[name], values)
    assert file.read_bytes()[:32] == hashlib.sha256(file.read_bytes()[32:]).digest()
    assert OpenVinoBackend(content, FULL, options).from_cache


@needs_openvino
def test_a_compiled_graph_that_openvino_refuses_is_made_again(tmp_path: Path) -> None:
    content, options = two_products(), BackendOptions(cache=tmp_path)
    x = np.random.default_rng(1).normal(size=(4, 64)).astype(np.float32)
    first = OpenVinoBackend(content, FULL, options)
    (file,) = tmp_path.iterdir()
    whole = file.read_bytes()
    body = whole[32 : 40 + int.from_bytes(whole[32:40], "little")] + b"compiled by somebody else"
    file.write_bytes(hashlib.sha256(body).digest() + body)
    second = OpenVinoBackend(content, FULL, options)
    assert not second.from_cache
    for name, values in first.run({"x": x}).items():
        np.testing.assert_array_equal(second.run({"x": x})[name], values)
    assert OpenVinoBackend(content, FULL, options).from_cache


@needs_openvino
def test_only_so_many_compiled_graphs_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("samsdk.backends.compiled_cache._MOST", 2)
    for threads in (1, 2, 3):
        OpenVinoBackend(two_products(), FULL, BackendOptions(threads=threads, cache=tmp_path))
        os.utime(max(tmp_path.iterdir(), key=lambda file: file.stat().st_mtime_ns), (threads, threads))
    assert len(list(tmp_path.iterdir())) == 2
    assert not OpenVinoBackend(two_products(), FULL, BackendOptions(threads=1, cache=tmp_path)).from_cache


@needs_openvino
def test_a_predictor_keeps_compiled_graphs_in_the_cache_unless_told_not_to(
    exported_bundle: Path, own_cache: Path
) -> None:
    samsdk.load(exported_bundle, device="openvino", cache=False)
    assert list(own_cache.iterdir()) == []
    samsdk.load(exported_bundle, device="openvino")
    assert len(list((own_cache / "compiled").iterdir())) == 2
    engines = samsdk.load(exported_bundle, device="openvino").engines
    for graph in (engines.encoder, engines.decoder):
        assert isinstance(graph, OpenVinoBackend)
        assert graph.from_cache


@needs_openvino
def test_where_nothing_can_be_written_it_loads_all_the_same(
    exported_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("SAMSDK_CACHE_DIR", str(tmp_path / "file"))
    assert samsdk.load(exported_bundle, device="openvino").provider == "OpenVINO CPU"
