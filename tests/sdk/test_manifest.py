import copy
import json
from pathlib import Path
from typing import Any

import pytest

from samsdk.errors import BundleError
from samsdk.manifest import Manifest
from samsdk.manifest_reader import is_safe_name, read_manifest
from samsdk.measuring import Calibration
from samsdk.tiers import Graph, Plan
from samsdk.zoom import Zoom


@pytest.fixture(scope="module")
def valid(exported_bundle: Path) -> dict[str, Any]:
    return json.loads((exported_bundle / "manifest.json").read_bytes())


def change(data: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    """A copy with one field changed, or removed when the value is `...`."""
    changed = copy.deepcopy(data)
    *above, last = path.split("/")
    place: Any = changed
    for key in above:
        place = place[int(key) if isinstance(place, list) else key]
    if value is ...:
        del place[last]
    else:
        place[last] = value
    return changed


def read(data: object) -> Manifest:
    return read_manifest(json.dumps(data).encode())


def test_every_field_is_read(valid: dict[str, Any]) -> None:
    manifest = read(valid)
    assert (manifest.name, manifest.version, manifest.task) == ("tiny", "1", "promptable")
    assert manifest.preprocessing.input_size == 64
    assert manifest.preprocessing.rule == "longest_pad_br"
    assert manifest.preprocessing.interpolation == "area"
    assert manifest.preprocessing.box_rounding == "truncate"
    assert manifest.preprocessing.intensity == "uint8_or_minmax"
    assert manifest.preprocessing.normalisation == "minmax"
    assert manifest.embedding == {"image_embeddings": (32, 16, 16)}
    assert manifest.prompt_kinds == manifest.trained_kinds == ("points", "box", "mask")
    assert (manifest.mask_side, manifest.mask_threshold, manifest.multimask_outputs) == (64, 0.0, 3)
    full = [Graph(f"{part}.onnx", "float32") for part in ("encoder", "decoder")]
    assert manifest.tiers == {"exact": (Plan(*full, ("onnxruntime", "openvino")),)}
    assert manifest.plan("exact", "onnxruntime-cpu") is manifest.plan("exact", "openvino") is manifest.tiers["exact"][0]
    assert set(manifest.flops) == {"encoder", "decoder"}
    assert all(count > 1e5 for count in manifest.flops.values())
    assert set(manifest.files) == {"MODEL_CARD.md", "decoder.onnx", "encoder.onnx", "golden.npz"}
    assert manifest.parity["exact"]["onnxruntime-cpu"]["passed"] is True
    assert manifest.licence == {"id": "CC0-1.0", "source": "random weights", "attribution": "none"}


def test_tables_of_what_scores_are_worth_by_kind_of_prompt(valid: dict[str, Any]) -> None:
    assert read(valid).calibration == {}
    manifest = read({**valid, "calibration": {"points": TABLE}})
    assert manifest.calibration == {"points": Calibration((0.2, 0.8), (0.1, 0.9), 12)}
    with pytest.raises(BundleError, match="calibration is for promptable bundles, this one is semantic"):
        read({**valid, "task": "semantic", "calibration": {"points": TABLE}})


def test_what_a_decoder_takes_and_gives_as_a_mask(valid: dict[str, Any]) -> None:
    manifest = read(valid)
    assert (manifest.preprocessing.mask_prompt, manifest.single_mask) == ("logits", "first")
    best = change(change(valid, "prompts/mask", "sigmoid"), "prompts/single", "best")
    manifest = read(best)
    assert (manifest.preprocessing.mask_prompt, manifest.single_mask) == ("sigmoid", "best")
    with pytest.raises(BundleError, match=r"prompts.single is 'best', but outputs.multimask_outputs leaves no masks"):
        read(change(best, "outputs/multimask_outputs", 0))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "manifest.json is not JSON: Expecting value"),
        (b'{"format": 1,', "manifest.json is not JSON"),
        (b"\xff\xfe\x00", "manifest.json is not JSON"),
        (b"[" * 200_000, "manifest.json is not JSON"),
        (b"[1]", "must hold one JSON object, got list"),
        (b"null", "must hold one JSON object, got NoneType"),
        (b"{}", "bundle format None is unknown, this samsdk reads format 1"),
        (b'{"format": 2}', "bundle format 2 is unknown, this samsdk reads format 1"),
        (b'{"format": "1"}', "bundle format '1' is unknown"),
        (b'{"format": true}', "bundle format True is unknown"),
    ],
)
def test_what_is_no_manifest_is_refused(text: bytes, message: str) -> None:
    with pytest.raises(BundleError, match=message):
        read_manifest(text)


TABLE = {"scores": [0.2, 0.8], "iou": [0.1, 0.9], "images": 12}
PROBLEMS = [
    ("calibration", [], "calibration has the wrong type: []"),
    (
        "calibration",
        {"mask": TABLE},
        "calibration.mask is not valid: there is no such kind of prompt, expected: box, p",
    ),
    (
        "calibration",
        {"box": [0.1]},
        "calibration.box is not valid: a calibration must be an object of images, iou, sco",
    ),
    (
        "calibration",
        {"box": {**TABLE, "iou": [0.9, 0.1]}},
        "calibration.box is not valid: the calibration is not valid",
    ),
    ("calibration", {"box": {**TABLE, "scores": [0.2, float("inf")]}}, "scores and iou must be finite"),
    ("calibration", {"box": {**TABLE, "scores": [0.2, 10**400]}}, "calibration.box is not valid"),
    ("name", ..., "name is missing"),
    ("version", 1, "version has the wrong type: 1"),
    ("task", "regression", "task is 'regression', expected: promptable, semantic, auto, volume"),
    ("geometry", ..., "geometry.rule is missing"),
    ("geometry/rule", "stretch", "geometry.rule is 'stretch', expected: longest_pad_br, resize_square, pad_"),
    (
        "geometry/interpolation",
        "sinc",
        "geometry.interpolation is 'sinc', expected: area, linear, nearest, cubic, anti",
    ),
    ("geometry/box_rounding", None, "geometry.box_rounding has the wrong type: None"),
    ("geometry/input_size", 0, "geometry.input_size must be between 1 and 8192, got 0"),
    ("geometry/input_size", 10**6, "geometry.input_size must be between 1 and 8192, got 1000000"),
    ("geometry/input_size", True, "geometry.input_size has the wrong type: True"),
    ("geometry/input_size", 64.0, "geometry.input_size has the wrong type: 64.0"),
    ("intensity/rule", "ct", "intensity.rule is 'ct', expected: uint8_or_minmax"),
    ("normalisation/rule", "imagenet", "normalisation.rule is 'imagenet', expected: minmax, unit, imagenet_rgb, imag"),
    ("embedding", ..., "embedding is missing"),
    ("embedding/image_embeddings", ..., "embedding.image_embeddings is missing"),
    ("embedding/image_embeddings", [32, -16, 16], "embedding.image_embeddings must be a list of positive sides"),
    ("prompts/kinds", ["points", "text"], "prompts.kinds is ['points', 'text'], expected: points, box, mask"),
    ("prompts/kinds", [], "prompts.kinds names no kind, expected some of: points, box, mask"),
    ("prompts/kinds", "points", "prompts.kinds has the wrong type: 'points'"),
    ("prompts/trained", ..., "prompts.trained is missing"),
    ("prompts/trained", [], "prompts.trained names no kind"),
    ("prompts/mask", "tanh", "prompts.mask is 'tanh', expected: logits, sigmoid"),
    ("prompts/mask", ..., "prompts.mask is missing"),
    ("prompts/single", "worst", "prompts.single is 'worst', expected: first, best"),
    ("outputs/mask_side", ..., "outputs.mask_side is missing"),
    ("outputs/mask_threshold", "0", "outputs.mask_threshold has the wrong type: '0'"),
    ("outputs/mask_threshold", float("nan"), "outputs.mask_threshold must be a logit, between -1e6 and 1e6, got nan"),
    ("outputs/mask_threshold", 10**400, "outputs.mask_threshold must be a logit"),
    ("outputs/multimask_outputs", -1, "outputs.multimask_outputs must be between 0 and 8192, got -1"),
    ("classes", [], "classes has the wrong type: []"),
    ("licence", ..., "licence is missing"),
    ("lineage", "LiteMedSAM", "lineage has the wrong type: 'LiteMedSAM'"),
    ("files", ..., "files is missing"),
    ("files/decoder.onnx", ..., "tiers.exact.0.decoder names decoder.onnx, which files lacks"),
    ("files/decoder.onnx", "abc", "files.decoder.onnx has no sha256"),
    ("files/decoder.onnx/sha256", 5, "files.decoder.onnx has no sha256"),
    ("files/..", {"sha256": "0"}, "files... leads out of the bundle"),
    ("files/C:x", {"sha256": "0"}, "files.C:x leads out of the bundle"),
    ("tiers", ..., "tiers is missing; tiers names no tier"),
    ("tiers", {}, "tiers names no tier"),
    (
        "tiers/exact",
        {"encoder": "encoder.onnx"},
        "tiers.exact must be a list of plans, got {'encoder': 'encoder.onnx'}",
    ),
    ("tiers/exact", ["encoder.onnx"], "tiers.exact.0 must be an object, got 'encoder.onnx'"),
    ("flops", None, "flops has the wrong type: None"),
    ("flops", {"encoder": "many"}, "flops.encoder must be a number of operations, got 'many'"),
    ("parity", ..., "parity is missing"),
    ("parity/exact", "passed", "parity.exact must hold, for each backend, passed, max_logit_difference, mean_mask_iou"),
    ("parity/exact/onnxruntime-cpu", True, "parity.exact must hold, for each backend"),
    ("parity/exact/onnxruntime-cpu/passed", "yes", "parity.exact must hold, for each backend"),
    ("parity/exact/onnxruntime-cpu/mean_mask_iou", ..., "parity.exact must hold, for each backend"),
    ("accuracy", None, "accuracy has the wrong type: None"),
]


@pytest.mark.parametrize(("path", "value", "message"), PROBLEMS)
def test_a_missing_or_malformed_field_is_named(valid: dict[str, Any], path: str, value: Any, message: str) -> None:
    with pytest.raises(BundleError) as caught:
        read(change(valid, path, value))
    assert str(caught.value).startswith("manifest.json is not a valid format 1 manifest: ")
    assert message in str(caught.value)


def test_one_error_lists_all_problems_and_nothing_twice(valid: dict[str, Any]) -> None:
    data = valid
    for path, value in (("name", ...), ("task", "regression"), ("outputs/mask_side", -4), ("tiers/exact", [{}])):
        data = change(data, path, value)
    with pytest.raises(BundleError) as caught:
        read(data)
    assert str(caught.value).removeprefix("manifest.json is not a valid format 1 manifest: ").split("; ") == [
        "name is missing",
        "task is 'regression', expected: promptable, semantic, auto, volume",
        "outputs.mask_side must be between 1 and 8192, got -4",
        "tiers.exact.0.encoder is missing",
        "tiers.exact.0.decoder is missing",
        "tiers.exact.0.engines must be a list of words, got None",
    ]


def test_a_manifest_of_nothing_but_its_format_names_every_section() -> None:
    with pytest.raises(BundleError) as caught:
        read({"format": 1})
    words = ("name", "version", "task", "geometry.rule", "intensity.rule", "normalisation.rule", "embedding")
    words += ("prompts.kinds", "prompts.trained", "prompts.mask", "outputs.mask_side", "outputs.mask_threshold")
    words += ("classes", "licence", "lineage", "files", "tiers", "parity", "accuracy")
    for word in words:
        assert f"{word} is missing" in str(caught.value)


def test_fields_that_a_later_version_adds_are_left_alone(valid: dict[str, Any]) -> None:
    assert read({**valid, "remark": {"by": "somebody"}}).name == "tiny"


def test_an_unknown_tier_is_refused_with_those_that_are_there(valid: dict[str, Any]) -> None:
    with pytest.raises(BundleError, match="bundle 'tiny' has no tier 'fast'; it has: exact"):
        read(valid).plan("fast", "onnxruntime-cpu")


def test_a_backend_without_a_plan_is_refused_with_those_that_have_one(valid: dict[str, Any]) -> None:
    engine = {**valid["tiers"]["exact"][0], "engines": ["tensorrt"], "targets": ["sm86", "sm89"]}
    manifest = read(change(valid, "tiers/exact", [*valid["tiers"]["exact"], engine]))
    assert manifest.plan("exact", "tensorrt", "sm89") is manifest.tiers["exact"][1]
    with pytest.raises(BundleError) as caught:
        manifest.plan("exact", "tensorrt", "sm75")
    offered = "onnxruntime openvino, tensorrt sm86 sm89"
    assert str(caught.value) == f"tier 'exact' of bundle 'tiny' has no plan for tensorrt on sm75; it has: {offered}"
    with pytest.raises(BundleError, match=r"has no plan for openvino; it has: onnxruntime$"):
        read(change(valid, "tiers/exact/0/engines", ["onnxruntime"])).plan("exact", "openvino")


@pytest.mark.parametrize(
    ("name", "safe"),
    [
        ("encoder.onnx", True),
        ("engines/sm86.engine", True),
        ("a..b", True),
        ("", False),
        (".", False),
        ("..", False),
        ("../x", False),
        ("a/../../x", False),
        ("/etc/x", False),
        ("a//b", False),
        ("a/", False),
        ("a\\b", False),
        ("C:x", False),
        ("a\0b", False),
    ],
)
def test_safe_names(name: str, safe: bool) -> None:
    assert is_safe_name(name) is safe


def test_zoom_is_what_the_bundle_recommends_or_nothing(valid: dict[str, Any]) -> None:
    assert read(valid).zoom is None
    assert read(change(valid, "prompts/zoom", None)).zoom is None
    assert read(change(valid, "prompts/zoom", {"context": 3, "smallest": 32})).zoom == Zoom(3, 32)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (3, "prompts.zoom.context is missing"),
        ({"context": 2.0}, "prompts.zoom.smallest is missing"),
        ({"context": "2", "smallest": 48}, "prompts.zoom.context has the wrong type: '2'"),
        ({"context": 2.0, "smallest": 48.5}, "prompts.zoom.smallest has the wrong type: 48.5"),
        ({"context": 0.5, "smallest": 48}, "prompts.zoom is not valid: expected a context and a smallest side"),
    ],
)
def test_a_zoom_that_is_not_valid_is_refused(valid: dict[str, Any], value: Any, message: str) -> None:
    with pytest.raises(BundleError, match=message):
        read(change(valid, "prompts/zoom", value))


def semantic(valid: dict[str, Any], classes: dict[str, Any], kinds: list[str]) -> dict[str, Any]:
    prompts = {**valid["prompts"], "kinds": kinds, "trained": kinds}
    return {**valid, "task": "semantic", "classes": classes, "prompts": prompts}


def test_a_semantic_bundle_has_classes_and_no_prompts(valid: dict[str, Any]) -> None:
    manifest = read(semantic(valid, {"0": "background", "1": "liver"}, []))
    assert (manifest.task, manifest.prompt_kinds, manifest.trained_kinds) == ("semantic", (), ())
    assert manifest.classes == {"0": "background", "1": "liver"}


@pytest.mark.parametrize(
    ("classes", "kinds", "text"),
    [
        ({"0": "background"}, [], "classes must be numbered from 0, the background, to at most 255, got: 0"),
        ({"1": "liver", "2": "spleen"}, [], "classes must be numbered from 0, the background, to at most 255, got: 1"),
        ({str(n): "x" for n in range(257)}, [], "to at most 255"),
        ({"0": "background", "1": 7}, [], "classes.1 must be a name, got 7"),
        ({"0": "background", "1": "liver"}, ["box"], "prompts.kinds names box, but a semantic bundle takes no prompt"),
    ],
)
def test_a_semantic_bundle_that_contradicts_itself_is_refused(
    valid: dict[str, Any], classes: dict[str, Any], kinds: list[str], text: str
) -> None:
    with pytest.raises(BundleError) as caught:
        read(semantic(valid, classes, kinds))
    assert text in str(caught.value)
