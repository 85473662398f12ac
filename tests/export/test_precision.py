"""The search for a plan in lower precision: its parts by hand, and the whole on the tiny bundle."""

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

import samsdk
from samsdk import Bundle, BundleError
from samsdk.backends.openvino import is_installed
from samsdk.prompts import Prompt
from samsdk.tiers import DICE_BOUNDS, Graph, Plan
from samsdk_export import bundle_writer, precision
from samsdk_export.bundle_writer import write_bundle
from samsdk_export.calibration import CalibrationSets, largest_change
from samsdk_export.parity import ParityError, certify
from samsdk_export.precision import Layer, Probe, find_plan, list_layers, lowered_plan, measure_layers, trial
from samsdk_export.tier_writer import TierRequest
from samsdk_training.checkpoints import Checkpoint

needs_openvino = pytest.mark.skipif(not is_installed(), reason="openvino is not installed")
MakeSet = Callable[..., Path]
FULL = Plan(Graph("encoder.onnx", "float32"), Graph("decoder.onnx", "float32"), ("onnxruntime", "openvino"))


def quiet(line: str) -> None:
    """No progress."""


@pytest.fixture(scope="module")
def sets(make_set: MakeSet, tmp_path_factory: pytest.TempPathFactory) -> CalibrationSets:
    folder = tmp_path_factory.mktemp("calibration")
    one = make_set(folder / "one", [[(30, 30, 14), (90, 60, 20)], [(64, 48, 25)]])
    two = make_set(folder / "two", [[(30, 50, 18)], [(80, 40, 12)]])
    return CalibrationSets((one, two), images=2, objects=1)


# Plans ----------------------------------------------------------------------------------------------------------------


def test_a_lowered_plan_is_for_openvino_and_leaves_the_other_part_as_it_is() -> None:
    plan = lowered_plan(FULL, {"encoder": ["a", "b"]})
    assert plan == Plan(Graph("encoder.onnx", "bfloat16", ("a", "b")), FULL.decoder, ("openvino",))
    assert lowered_plan(FULL, {"decoder": ["c"], "encoder": []}, "float16") == Plan(
        FULL.encoder, Graph("decoder.onnx", "float16", ("c",)), ("openvino",)
    )
    assert lowered_plan(FULL, {}) == replace(FULL, engines=("openvino",))


# Layers ---------------------------------------------------------------------------------------------------------------


def counted_graph() -> bytes:
    """Convolutions and products whose multiplications can be counted by hand."""
    random = np.random.default_rng(0)
    shapes = {"w_conv": (8, 3, 5, 5), "w_depth": (8, 1, 3, 3), "w_one": (64, 10), "w_two": (6, 10)}
    weights = [numpy_helper.from_array(random.normal(size=s).astype(np.float32), n) for n, s in shapes.items()]
    weights.append(numpy_helper.from_array(np.array([0, 8, 64], np.int64), "flat"))
    node = helper.make_node
    nodes = [
        node("Conv", ["image", "w_conv"], ["conv"], "conv", strides=[2, 2], pads=[2, 2, 2, 2]),  # 8 x 8 of 16 x 16
        node("Conv", ["conv", "w_depth"], ["depth"], "depth", group=8, pads=[1, 1, 1, 1]),
        node("Reshape", ["depth", "flat"], ["rows"], "rows"),  # [N, 8, 64]
        node("MatMul", ["rows", "w_one"], ["one"], "one"),  # [N, 8, 10]
        node("Transpose", ["w_two"], ["w_turned"], "turn", perm=[1, 0]),
        node("MatMul", ["one", "w_turned"], ["two"], "two"),  # [N, 8, 6]
        node("Transpose", ["two"], ["turned"], "turn_again", perm=[0, 2, 1]),
        node("MatMul", ["turned", "one"], ["three"], "three"),  # [N, 6, 8] with [N, 8, 10]
        node("Relu", ["three"], ["y"], "relu"),
    ]
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "counted",
        [value("image", TensorProto.FLOAT, ["N", 3, 16, 16])],
        [value("y", TensorProto.FLOAT, ["N", 6, 10])],
        weights,
    )
    model: onnx.ModelProto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    return model.SerializeToString()


@needs_openvino
def test_multiplications_are_those_of_a_count_by_hand() -> None:
    content = counted_graph()
    bundle: Any = SimpleNamespace(read=lambda name: content if name == "encoder.onnx" else b"")
    assert [(kind, macs) for _, kind, macs in list_layers(bundle, FULL, "encoder")] == [
        ("Convolution", 8 * 8 * 8 * (3 * 5 * 5)),
        ("GroupConvolution", 8 * 8 * 8 * (3 * 3)),
        ("MatMul", 8 * 64 * 10),
        ("MatMul", 8 * 10 * 6),
        ("MatMul", 6 * 8 * 10),
    ]


@needs_openvino
def test_the_encoders_multiplications_are_as_many_as_pytorch_counts(exported_bundle: Path) -> None:
    bundle = Bundle.open(exported_bundle)
    layers = list_layers(bundle, FULL, "encoder")
    assert 2 * sum(macs for _, _, macs in layers) == bundle.manifest.flops["encoder"]
    names = [name for name, _, _ in layers]
    assert len(set(names)) == len(names)
    # PyTorch counts the decoder of the model as trained; the exported one multiplies less, because some products were
    # absorbed, and nothing more.
    decoder = 2 * sum(macs for _, _, macs in list_layers(bundle, FULL, "decoder"))
    assert 0.7 * bundle.manifest.flops["decoder"] < decoder <= bundle.manifest.flops["decoder"]


# Measuring ------------------------------------------------------------------------------------------------------------


@dataclass
class Constant:
    """Answers every prompt with logits that are the same number everywhere, but for the left half."""

    right: float
    left: float

    def encode(self, image: NDArray[np.generic]) -> tuple[int, int]:
        return image.shape[:2]

    def decode_batch(self, size: tuple[int, int], prompts: Sequence[Prompt]) -> list[Any]:
        logits = np.full((1, 4, 4), self.right, np.float32)
        logits[:, :, :2] = self.left
        return [SimpleNamespace(low_res_logits=logits) for _ in prompts]


def test_a_probe_measures_relative_errors_and_overlaps(
    sets: CalibrationSets, exported_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precision, "trial", lambda bundle, plan: Constant(2.0, 2.0))
    probe = Probe(Bundle.open(exported_bundle), FULL, sets, ("points", "box", "mask"))
    # Two sets of two images, with one object each: a box and a point.
    assert [(image.shape, len(prompts)) for image, prompts in probe._prompts] == [((96, 128), 2)] * 4
    assert [prompt.kinds for prompt in probe._prompts[0][1]] == [("box",), ("points",)]
    assert probe._prompts[0][1][0].box == (16, 16, 45, 45)
    assert probe._prompts[0][1][1].points == [(30.0, 30.0)]
    assert probe.measure(Constant(2.0, 2.0), "encoder") == (0.0, 1.0)
    # All are wrong by 1 of 2.
    assert probe.measure(Constant(3.0, 3.0), "encoder") == (pytest.approx(1 / 4), 1.0)
    # Half of them are wrong by 3, and on the other side.
    worst = Constant(2.0, -1.0)
    assert probe.measure(worst, "encoder") == (pytest.approx(9 / 4 / 2), 0.5)
    # A decoder is tried on the embeddings of full precision.
    monkeypatch.setattr(worst, "encode", None)
    assert probe.measure(worst, "decoder") == (pytest.approx(9 / 4 / 2), 0.5)


def test_a_probe_takes_images_from_all_over_the_sets(
    make_set: MakeSet, exported_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precision, "trial", lambda bundle, plan: Constant(2.0, 2.0))
    folders = tuple(make_set(tmp_path / f"{n}", [[(20 + 2 * n, 30, 14)], [(90, 60, 14)]]) for n in range(20))
    probe = Probe(Bundle.open(exported_bundle), FULL, CalibrationSets(folders), ("points",))
    # Every fourth of twenty sets, from the first on; the first image of each.
    centres = [prompts[0].points[0][0] for _, prompts in probe._prompts if prompts[0].points]
    assert centres == [20.0 + 2 * n for n in range(0, 20, 4)]


def test_logits_beyond_doubt_do_not_count(
    sets: CalibrationSets, exported_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precision, "trial", lambda bundle, plan: Constant(100.0, -100.0))
    probe = Probe(Bundle.open(exported_bundle), FULL, sets, ("box",))
    assert [len(prompts) for _, prompts in probe._prompts] == [1] * 4
    assert probe.measure(Constant(9.0, -20.0), "encoder") == (0.0, 1.0)
    assert probe.measure(Constant(4.0, -20.0), "encoder") == (pytest.approx((4 / 8) ** 2 / 2), 1.0)


@needs_openvino
def test_one_lowered_layer_moves_the_logits_a_little(exported_bundle: Path, sets: CalibrationSets) -> None:
    bundle = Bundle.open(exported_bundle)
    probe = Probe(bundle, FULL, replace(sets, folders=sets.folders[:1]), ("box",))
    assert probe.measure(trial(bundle, replace(FULL, engines=("openvino",))), "encoder") == (0.0, 1.0)
    listed = list_layers(bundle, FULL, "encoder")
    name = max(listed, key=lambda layer: layer[2])[0]
    error, overlap = probe.measure(trial(bundle, lowered_plan(FULL, {"encoder": [name]})), "encoder")
    # bfloat16 rounds by up to 2^-9; an error of the square of it in one layer, and somewhat more through the network.
    assert 1e-9 < error < 1e-2
    assert overlap > 0.9
    everything = {part: [one for one, _, _ in list_layers(bundle, FULL, part)] for part in ("encoder", "decoder")}
    worse, _ = probe.measure(trial(bundle, lowered_plan(FULL, everything)), "encoder")
    assert worse > error


def test_every_layer_of_both_parts_is_lowered_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    listed = {"encoder": [("a", "Convolution", 10.0), ("b", "MatMul", 20.0)], "decoder": [("a", "MatMul", 5.0)]}
    monkeypatch.setattr(precision, "list_layers", lambda bundle, plan, part: listed[part])
    monkeypatch.setattr(precision, "trial", lambda bundle, plan: plan)
    tried: list[Plan] = []
    parts: list[str] = []

    def measured(plan: Plan, part: str) -> tuple[float, float]:
        tried.append(plan)
        parts.append(part)
        return 0.5 * len(tried), 1.0 / len(tried)

    probe: Any = SimpleNamespace(measure=measured)
    lines: list[str] = []
    layers = measure_layers(None, FULL, probe, lines.append)  # type: ignore[arg-type]
    assert layers == [
        Layer("encoder", "a", "Convolution", 10.0, 0.5, 1.0),
        Layer("encoder", "b", "MatMul", 20.0, 1.0, 0.5),
        Layer("decoder", "a", "MatMul", 5.0, 1.5, 1 / 3),
    ]
    assert [(plan.encoder.lowered, plan.decoder.lowered) for plan in tried] == [
        (("a",), ()),
        (("b",), ()),
        ((), ("a",)),
    ]
    assert parts == ["encoder", "encoder", "decoder"]
    assert lines == ["encoder layer 1 of 2", "encoder layer 2 of 2", "decoder layer 1 of 1"]


# Searching ------------------------------------------------------------------------------------------------------------


def layer(name: str, macs: float, error: float, part: str = "encoder") -> Layer:
    return Layer(part, name, "MatMul", macs, error, 1.0)


# Error per multiplication: c 0.1, a 1, e 2, b 3, d 10.
LAYERS = [
    layer("a", 100, 100),
    layer("b", 100, 300),
    layer("c", 200, 20),
    layer("d", 10, 100, "decoder"),
    layer("e", 30, 60, "decoder"),
]


@dataclass
class CostPerLayer:
    """Calibration sets on which each lowered layer changes Dice by the same amount."""

    cost: float
    tried: list[int]

    def dice(self, plan: Plan, kinds: Sequence[str], classes: Mapping[str, str]) -> dict[str, dict[str, float]]:
        count = len(plan.encoder.lowered) + len(plan.decoder.lowered)
        self.tried.append(count)
        # Dice may rise just as well as fall: either is a change.
        return {"good": {"box": 0.9}, "bad": {"box": 0.8 + self.cost * count}}


def search(
    monkeypatch: pytest.MonkeyPatch, cost: float, tier: str = "balanced"
) -> tuple[precision.Found | None, list[int]]:
    monkeypatch.setattr(precision, "trial", lambda bundle, plan: plan)
    bundle: Any = SimpleNamespace(manifest=SimpleNamespace(task="promptable", trained_kinds=("box",), classes={}))
    sets: Any = CostPerLayer(cost, [])
    reference = {"good": {"box": 0.9}, "bad": {"box": 0.8}}
    return find_plan(bundle, FULL, tier, LAYERS, sets, reference, quiet), sets.tried


def test_as_many_layers_as_the_bound_allows_the_cheapest_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "DICE_BOUNDS", {"balanced": 0.001, "fast": 0.005})
    found, tried = search(monkeypatch, cost=0.0003)
    assert found is not None
    assert (found.plan.encoder.lowered, found.plan.decoder.lowered) == (("c", "a"), ("e",))
    assert found.plan.engines == ("openvino",)
    assert found.layers == 3
    # 300 of 400 multiplications of the encoder, 30 of 40 of the decoder.
    assert found.share == pytest.approx((300 / 400 + 30 / 40) / 2)
    assert found.change == {"good": {"box": 0.0}, "bad": {"box": pytest.approx(0.0009)}}
    assert tried == [3, 4]
    # The looser tier takes all of them, and the strictest none.
    everything, _ = search(monkeypatch, cost=0.0003, tier="fast")
    assert everything is not None
    assert (everything.plan.encoder.lowered, everything.plan.decoder.lowered) == (("c", "a", "b"), ("e", "d"))
    assert (everything.layers, everything.share) == (5, 1.0)
    monkeypatch.setattr(precision, "DICE_BOUNDS", {"balanced": 0.0})
    nothing, tried = search(monkeypatch, cost=0.0003)
    assert (nothing, tried[-1]) == (None, 1)


def test_a_rise_of_dice_counts_as_a_change(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "DICE_BOUNDS", {"balanced": 0.001})
    risen, fallen = (search(monkeypatch, cost=cost)[0] for cost in (0.0004, -0.0004))
    assert risen is not None
    assert fallen is not None
    assert (risen.layers, fallen.layers) == (2, 2)
    assert risen.plan == fallen.plan
    # By error per multiplication: `e` errs less than `a`, but saves still less.
    assert (risen.plan.encoder.lowered, risen.plan.decoder.lowered) == (("c", "a"), ())


# On a bundle ----------------------------------------------------------------------------------------------------------


def first_layers(bundle: Bundle, plan: Plan, part: str) -> list[tuple[str, str, float]]:
    """Of each part the three that multiply most: a bundle of a hundred layers would take minutes."""
    return sorted(list_layers(bundle, plan, part), key=lambda one: -one[2])[:3]


@pytest.fixture(scope="module")
def loose(
    tiny_checkpoint: Checkpoint, exported_bundle: Path, sets: CalibrationSets, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, list[str]]:
    """A bundle with the tier `fast`, found with a bound that six layers of the tiny model hold, and what was said."""
    lines: list[str] = []
    target = tmp_path_factory.mktemp("lowered") / "tiny"
    with pytest.MonkeyPatch.context() as patch:
        for part in ("encoder", "decoder"):
            content = (exported_bundle / f"{part}.onnx").read_bytes()
            patch.setattr(bundle_writer, f"export_{part}", lambda model, rewrites, content=content: content)
        patch.setattr(precision, "list_layers", first_layers)
        write_bundle(tiny_checkpoint, target, name="tiny", request=TierRequest(("fast",), sets), progress=lines.append)
    return target, lines


@needs_openvino
def test_a_tier_is_found_proved_and_runs(loose: tuple[Path, list[str]], sets: CalibrationSets) -> None:
    path, lines = loose
    assert [line for line in lines if "layer" in line][:7] == [
        *(f"{part} layer {index} of 3" for part in ("encoder", "decoder") for index in (1, 2, 3)),
        next(line for line in lines if line.startswith("fast: ")),
    ]
    assert lines[-2:] == [
        "checking parity of tier fast on openvino in a fresh process",
        "moving the bundle into place",
    ]
    bundle = Bundle.open(path)
    (plan,) = bundle.manifest.tiers["fast"]
    names = {part: {name for name, _, _ in first_layers(bundle, FULL, part)} for part in ("encoder", "decoder")}
    assert plan.engines == ("openvino",)
    assert 1 <= len(plan.encoder.lowered) + len(plan.decoder.lowered) <= 6
    assert set(plan.encoder.lowered) <= names["encoder"]
    assert set(plan.decoder.lowered) <= names["decoder"]
    assert list(bundle.manifest.parity["fast"]) == ["openvino"]
    certificate = bundle.manifest.parity["fast"]["openvino"]
    assert certificate["passed"] is True
    assert certificate["bounds"]["dice_change"] == DICE_BOUNDS["fast"] == 0.005
    assert largest_change(certificate["dice_change"]) <= 0.005
    predictor = samsdk.load(path, device="openvino", tier="fast")
    assert predictor.engines.certificate == certificate
    # What the fresh process measured is what this one measures.
    mine = sets.dice(predictor, ("points", "box", "mask"))
    for name, row in certificate["dice"].items():
        assert mine[name] == pytest.approx(row, abs=1e-6)
    assert set(mine) == {"one", "two"}
    # Full precision was measured on the sets, too, and is as good as torch's.
    for backend in ("onnxruntime-cpu", "openvino"):
        exact = bundle.manifest.parity["exact"][backend]
        assert largest_change(exact["dice_change"]) < 1e-3
        assert set(exact["dice"]["one"]) == {"points", "box"}


@needs_openvino
def test_the_tier_computes_something_else_than_full_precision(
    loose: tuple[Path, list[str]], tissue: NDArray[np.uint8]
) -> None:
    path, _ = loose
    fast, exact = (samsdk.load(path, device="openvino", tier=tier) for tier in ("fast", "exact"))
    one, two = (either.segment(tissue, box=(120, 100, 300, 260)).low_res_logits for either in (fast, exact))
    difference = np.abs(one - two)
    assert 1e-5 < difference.max() < 0.2 * np.abs(two).max()
    certificate = fast.engines.certificate
    assert certificate is not None
    assert (
        certificate["max_logit_difference"] > 1e-4 > fast.manifest.parity["exact"]["openvino"]["max_logit_difference"]
    )
    with pytest.raises(
        BundleError, match="tier 'fast' of bundle 'tiny' has no plan for onnxruntime-cpu; it has: openvino"
    ):
        samsdk.load(path, device="cpu", tier="fast")


@needs_openvino
@pytest.mark.parametrize("edit", ["fewer", "more", "precision"])
def test_the_certificate_is_for_these_layers_alone(loose: tuple[Path, list[str]], tmp_path: Path, edit: str) -> None:
    path = Path(shutil.copytree(loose[0], tmp_path / "tiny"))
    manifest = json.loads((path / "manifest.json").read_bytes())
    (plan,) = manifest["tiers"]["fast"]
    part = next(part for part in ("encoder", "decoder") if "lowered" in plan[part])
    if edit == "fewer":
        plan[part]["lowered"] = plan[part]["lowered"][1:]
    elif edit == "more":
        plan[part]["lowered"].append(list_layers(Bundle.open(path), FULL, part)[0][0])
    else:
        plan[part]["precision"] = "float16"
    (path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(BundleError, match="certificate for openvino: the one of the bundle is for other files"):
        samsdk.load(path, device="openvino", tier="fast")
    assert samsdk.load(path, device="openvino").tier == "exact"


@needs_openvino
def test_a_tier_that_loses_dice_is_not_certified(loose: tuple[Path, list[str]], sets: CalibrationSets) -> None:
    path, _ = loose
    dice = Bundle.open(path).manifest.parity["fast"]["openvino"]["dice"]
    certificate = certify(path, "fast", "openvino", sets, dice)
    assert (certificate["passed"], largest_change(certificate["dice_change"])) == (True, pytest.approx(0, abs=1e-6))
    worse = {**dice, "two": {**dice["two"], "points": dice["two"]["points"] + 0.006}}
    with pytest.raises(ParityError, match="tier 'fast' on openvino does not compute what the checkpoint computes") as e:
        certify(path, "fast", "openvino", sets, worse)
    measured = json.loads(str(e.value).partition(": ")[2])
    assert measured["dice_change"]["two"]["points"] == pytest.approx(-0.006, abs=1e-6)
    with pytest.raises(ParityError, match="tier 'fast' cannot be certified without calibration sets"):
        certify(path, "fast", "openvino")


@needs_openvino
def test_nothing_is_lowered_where_every_layer_changes_dice(
    exported_bundle: Path, sets: CalibrationSets, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precision, "DICE_BOUNDS", {"balanced": 0.0, "fast": 1.0})
    bundle = Bundle.open(exported_bundle)
    layers = [Layer("encoder", *one, 1e-6, 1.0) for one in first_layers(bundle, FULL, "encoder")[:1]]
    layers += [Layer("decoder", *one, 1e-6, 1.0) for one in first_layers(bundle, FULL, "decoder")[:1]]
    # A checkpoint with another Dice: nothing that is lowered here comes to it.
    reference = {folder.name: {"points": 2.0, "box": 2.0} for folder in sets.folders}
    assert find_plan(bundle, FULL, "balanced", layers, sets, reference, quiet) is None
    reference = {folder.name: {"points": 0.5, "box": 0.5} for folder in sets.folders}
    found = find_plan(bundle, FULL, "fast", layers, sets, reference, quiet)
    assert found is not None
    assert found.layers == 2
    assert {*found.plan.encoder.lowered, *found.plan.decoder.lowered} == {layer.name for layer in layers}
