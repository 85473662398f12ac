"""Engines are built here for GPUs that are not here; what they compute can only be checked on one."""

import hashlib
import json
import sys

import onnx
import pytest
import torch

from samsdk.backends.tensorrt_library import is_installed, load_engine
from samsdk.errors import BackendError, MissingExtraError
from samsdk_export.onnx_export import REWRITES, ExportError, export_decoder, export_encoder
from samsdk_export.tensorrt import (
    DECODER_PROFILE,
    ENCODER_PROFILE,
    TARGETS,
    Engine,
    accepted_by_parser,
    build_engine,
    engine_name,
    plan_engines,
)
from samsdk_export.typed import to_half
from samsdk_training.models.sam import Sam, build_sam
from samsdk_training.models.sam_config import DecoderConfig, SamConfig
from samsdk_training.models.student import StudentEncoderConfig

needs_tensorrt = pytest.mark.skipif(not is_installed(), reason="tensorrt-rtx is not installed")


@pytest.fixture(scope="module")
def student() -> Sam:
    torch.manual_seed(3)
    encoder = StudentEncoderConfig(64, 8, (8, 16, 16, 24), (1, 1, 1, 1), out_channels=64, batch_norm=False)
    return build_sam(SamConfig(encoder, DecoderConfig(num_heads=4, mlp_dim=64, iou_head_hidden_dim=32))).eval()


@pytest.fixture(scope="module")
def encoder(student: Sam) -> bytes:
    return export_encoder(student, REWRITES)


@pytest.fixture(scope="module")
def decoder(student: Sam) -> bytes:
    return export_decoder(student, REWRITES)


@pytest.fixture(scope="module")
def turing(encoder: bytes) -> Engine:
    return build_engine(to_half(encoder), ["sm75"], ENCODER_PROFILE)


def test_engines_are_as_few_as_can_be() -> None:
    most = ("sm80", "sm86", "sm89", "sm120", "sm121")
    assert plan_engines(TARGETS[::-1]) == [(("sm75",), "float16"), (most, "float32")]
    assert plan_engines(["sm89", "sm86", "sm89"]) == [(("sm86", "sm89"), "float32")]
    assert plan_engines(["sm75"]) == [(("sm75",), "float16")]
    assert plan_engines(TARGETS, half=True) == [(TARGETS, "float16")]


@pytest.mark.parametrize(
    ("targets", "reason"),
    [(["sm86", "sm90"], r"unknown targets \['sm90'\]"), ("sm86", "unknown targets"), ([], "no targets")],
)
def test_unknown_targets_are_refused_with_the_known_ones(targets: list[str], reason: str) -> None:
    with pytest.raises(ExportError, match=f"{reason}.*, expected some of: sm75, sm80, sm86, sm89, sm120, sm121"):
        plan_engines(targets)
    with pytest.raises(ExportError, match=reason):
        engine_name("encoder", targets, "1.7")
    with pytest.raises(ExportError, match=reason):
        build_engine(b"", targets, {})


def test_names_tell_part_targets_and_version() -> None:
    name = engine_name("encoder", ["sm120", "sm80"], "1.7.1.116")
    assert name == "engines/encoder.sm80-sm120.trtrtx1.7.engine"


@needs_tensorrt
def test_one_engine_for_all_generations(encoder: bytes, decoder: bytes) -> None:
    for graph, profile in ((encoder, ENCODER_PROFILE), (decoder, DECODER_PROFILE)):
        half = to_half(graph)
        engine = build_engine(half, TARGETS, profile)
        assert (engine.targets, engine.graph_sha256) == (TARGETS, hashlib.sha256(half).hexdigest())
        assert engine.content[:4] == b"vtrt"
        assert engine.version.startswith("1.")
        assert 0 < engine.seconds < 600
        # The weights are in it.
        assert len(engine.content) > sum(tensor.ByteSize() for tensor in onnx.load_from_string(half).graph.initializer)


@needs_tensorrt
def test_the_report_counts_what_the_graph_has(decoder: bytes) -> None:
    half = build_engine(to_half(decoder), ["sm89"], DECODER_PROFILE).report
    single = build_engine(decoder, ["sm89"], DECODER_PROFILE).report
    assert json.loads(json.dumps(dict(half))) == half
    kinds = [node.op_type for node in onnx.load_from_string(decoder).graph.node]
    # Of the seven attentions two have their softmax apart, so that the image's projections can go to the tokens' side.
    assert half["softmaxes"] == single["softmaxes"] == kinds.count("Softmax") == 7 - kinds.count("Exp") > 0
    assert half["precisions"]["HALF"] > 100 > single["precisions"].get("HALF", 0)
    assert sum(half["precisions"].values()) == half["layers"]
    # Attention is fused in half precision only, and not for every number of channels a head.
    assert single["fused_attentions"] == 0 < half["fused_attentions"] <= kinds.count("Softmax")
    assert any("mha" in name for name in half["kernels"])
    assert sum(single["kernels"].values()) > 20


@needs_tensorrt
def test_turing_needs_a_half_precision_graph(decoder: bytes) -> None:
    with pytest.raises(ExportError, match=r"sm75 multiplies matrices in float16 only, but \d+ nodes.*to_half"):
        build_engine(decoder, ["sm86", "sm75"], DECODER_PROFILE)


@needs_tensorrt
@pytest.mark.parametrize(
    ("profile", "reason"),
    [
        ({}, "image has a dynamic dimension 'N', the profile has"),
        ({**ENCODER_PROFILE, "P": (1, 1, 2)}, r"the profile names \['P'\], which no input has"),
        ({"N": (1, 4, 2)}, "N must rise from at least 1, got 1, 4, 2"),
        ({"N": (0, 1, 2)}, "N must rise from at least 1, got 0, 1, 2"),
    ],
)
def test_a_profile_must_fit_the_graph(encoder: bytes, profile: dict[str, tuple[int, int, int]], reason: str) -> None:
    with pytest.raises(ExportError, match=reason):
        build_engine(encoder, ["sm86"], profile)


@needs_tensorrt
def test_what_the_parser_does_not_read_is_refused_in_its_words(
    encoder: bytes, capfd: pytest.CaptureFixture[str]
) -> None:
    proto = onnx.load_from_string(encoder)
    convolution = next(node for node in proto.graph.node if node.op_type == "Conv")
    convolution.op_type = "NoSuchOperator"
    broken = proto.SerializeToString()
    for graph in (broken, b"no graph"):
        assert not accepted_by_parser(graph)
        with pytest.raises(ExportError, match=r"TensorRT-RTX cannot read the graph: .+"):
            build_engine(graph, ["sm86"], ENCODER_PROFILE)
    with pytest.raises(ExportError, match=f"{convolution.name}.*NoSuchOperator"):
        build_engine(broken, ["sm86"], ENCODER_PROFILE)
    assert accepted_by_parser(encoder)
    assert capfd.readouterr() == ("", "")


def test_without_tensorrt_the_command_is_named(encoder: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", None)
    text = r"building engines needs tensorrt-rtx .*: pip install 'samsdk\[tensorrt\]'"
    with pytest.raises(MissingExtraError, match=text):
        build_engine(encoder, ["sm86"], ENCODER_PROFILE)
    with pytest.raises(MissingExtraError, match=text):
        accepted_by_parser(encoder)
    assert not is_installed()


@needs_tensorrt
def test_damaged_engines_are_told_from_a_missing_driver(turing: Engine, capfd: pytest.CaptureFixture[str]) -> None:
    damaged = {
        turing.content[:1000]: "cut short",
        turing.content[: len(turing.content) // 2]: "cut short",
        b"vtrt" + bytes(1000): "",
        b"no engine": "damaged or no engine of this library",
        b"": "damaged or no engine of this library",
    }
    for content, reason in damaged.items():
        with pytest.raises(BackendError, match=f"cannot load the engine: .*{reason}") as caught:
            load_engine(content)
        assert "driver" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


@needs_tensorrt
@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_driver_a_sound_engine_says_so(turing: Engine) -> None:
    with pytest.raises(BackendError, match=r"tensorrt_rtx 1\..* cannot load the engine: no NVIDIA driver .*'cpu'"):
        load_engine(turing.content)
