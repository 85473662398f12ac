import copy
from typing import Any

import pytest

from samsdk.tiers import Graph, Plan, TierReader

FILES = ("encoder.onnx", "decoder.onnx", "encoder.engine", "decoder.engine")
FULL: dict[str, Any] = {
    "engines": ["onnxruntime", "openvino"],
    "encoder": {"file": "encoder.onnx", "precision": "float32"},
    "decoder": {"file": "decoder.onnx", "precision": "float32"},
}
LOWERED: dict[str, Any] = {
    "engines": ["openvino"],
    "encoder": {"file": "encoder.onnx", "precision": "bfloat16", "lowered": ["/conv1", "/conv2"]},
    "decoder": {"file": "decoder.onnx", "precision": "float32"},
}
BUILT: dict[str, Any] = {
    "engines": ["tensorrt"],
    "targets": ["sm86", "sm89"],
    "encoder": {"file": "encoder.engine", "precision": "float16"},
    "decoder": {"file": "decoder.engine", "precision": "float16"},
}


def read(data: Any) -> tuple[dict[str, tuple[Plan, ...]], list[str]]:
    reader = TierReader(dict.fromkeys(FILES))
    return reader.tiers(data), reader.problems


def change(plan: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    """A copy of a plan with one field changed, or removed when the value is `...`."""
    changed = copy.deepcopy(plan)
    place = changed
    *above, last = path.split("/")
    for key in above:
        place = place[key]
    if value is ...:
        del place[last]
    else:
        place[last] = value
    return changed


def test_every_field_is_read_in_the_order_of_the_manifest() -> None:
    tiers, problems = read({"exact": [FULL, BUILT], "fast": [LOWERED]})
    assert problems == []
    full = Plan(Graph("encoder.onnx", "float32"), Graph("decoder.onnx", "float32"), ("onnxruntime", "openvino"))
    built = Plan(
        Graph("encoder.engine", "float16"), Graph("decoder.engine", "float16"), ("tensorrt",), ("sm86", "sm89")
    )
    lowered = Plan(
        Graph("encoder.onnx", "bfloat16", ("/conv1", "/conv2")), Graph("decoder.onnx", "float32"), ("openvino",)
    )
    assert list(tiers.items()) == [("exact", (full, built)), ("fast", (lowered,))]


def test_a_plan_says_its_files_and_its_precision() -> None:
    (full, built), (lowered,) = read({"exact": [FULL, BUILT], "fast": [LOWERED]})[0].values()
    assert full.files == lowered.files == ("encoder.onnx", "decoder.onnx")
    assert (full.precision, built.precision) == ("float32", "float16")
    assert lowered.precision == "bfloat16 encoder, float32 decoder"


@pytest.mark.parametrize(
    ("backend", "target", "full", "built"),
    [
        ("onnxruntime-cpu", None, True, False),
        ("onnxruntime-cuda", None, True, False),
        ("openvino", None, True, False),
        ("tensorrt", "sm86", False, True),
        ("tensorrt", "sm89", False, True),
        ("tensorrt", "sm80", False, False),
        ("tensorrt", None, False, False),
        ("onnx", None, False, False),
    ],
)
def test_which_backend_can_run_which_plan(backend: str, target: str | None, full: bool, built: bool) -> None:
    plans = read({"exact": [FULL, BUILT]})[0]["exact"]
    assert [plan.runs_on(backend, target) for plan in plans] == [full, built]


def test_a_plan_without_targets_runs_on_any_gpu() -> None:
    (plan,) = read({"exact": [change(BUILT, "targets", ...)]})[0]["exact"]
    assert plan.targets == ()
    assert plan.runs_on("tensorrt", "sm86")


PROBLEMS: list[tuple[str, Any, str]] = [
    ("engines", ..., "tiers.exact.0.engines must be a list of words, got None"),
    ("engines", "openvino", "tiers.exact.0.engines must be a list of words, got 'openvino'"),
    ("engines", [1], "tiers.exact.0.engines must be a list of words, got [1]"),
    ("engines", [], "tiers.exact.0.engines names none, expected some of: onnxruntime, openvino, tensorrt"),
    (
        "engines",
        ["openvino", "coreml"],
        "tiers.exact.0.engines is ['openvino', 'coreml'], expected: onnxruntime, openvino, tensorrt",
    ),
    ("targets", "sm86", "tiers.exact.0.targets must be a list of words, got 'sm86'"),
    ("targets", [86], "tiers.exact.0.targets must be a list of words, got [86]"),
    ("encoder", ..., "tiers.exact.0.encoder is missing"),
    ("encoder", "encoder.onnx", "tiers.exact.0.encoder must be an object, got 'encoder.onnx'"),
    ("decoder/file", "absent.onnx", "tiers.exact.0.decoder names absent.onnx, which files lacks"),
    ("decoder/file", ..., "tiers.exact.0.decoder names None, which files lacks"),
    ("decoder/file", ["decoder.onnx"], "tiers.exact.0.decoder names ['decoder.onnx'], which files lacks"),
    (
        "decoder/precision",
        "fp16",
        "tiers.exact.0.decoder.precision is 'fp16', expected: float32, bfloat16, float16, int8",
    ),
    ("decoder/precision", ..., "tiers.exact.0.decoder.precision is None, expected: float32, bfloat16, float16, int8"),
    ("encoder/lowered", "/conv1", "tiers.exact.0.encoder.lowered must be a list of words, got '/conv1'"),
    ("encoder/lowered", None, "tiers.exact.0.encoder.lowered must be a list of words, got None"),
]


@pytest.mark.parametrize(("path", "value", "problem"), PROBLEMS)
def test_what_is_malformed_is_named_and_nothing_else(path: str, value: Any, problem: str) -> None:
    _, problems = read({"exact": [change(FULL, path, value)], "fast": [LOWERED]})
    assert problems == [problem]


@pytest.mark.parametrize("plans", [{}, [], None, "exact", FULL])
def test_a_tier_is_a_list_of_plans(plans: Any) -> None:
    assert read({"exact": plans}) == ({"exact": ()}, [f"tiers.exact must be a list of plans, got {plans!r}"])


def test_a_plan_is_an_object_and_the_others_are_still_read() -> None:
    tiers, problems = read({"exact": [3, FULL]})
    assert problems == ["tiers.exact.0 must be an object, got 3"]
    assert [plan.files for plan in tiers["exact"]] == [("encoder.onnx", "decoder.onnx")]


def test_no_tier_at_all_is_a_problem() -> None:
    assert read({}) == ({}, ["tiers names no tier"])
