import hashlib
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

import samsdk
from samsdk import bundle_commands, command
from samsdk.bundle import Bundle
from samsdk.golden import read_golden, write_golden

BOX = (120, 100, 300, 260)

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(autouse=True)
def clean_slate() -> None:
    """No kept predictor."""
    samsdk._predictors.clear()


@pytest.fixture
def picture(tmp_path: Path, tissue: NDArray[np.uint8]) -> Path:
    cv2.imwrite(str(tmp_path / "tissue.png"), tissue[..., ::-1])
    return tmp_path / "tissue.png"


def only_object(out: str) -> dict[str, Any]:
    """Stdout is exactly one JSON object on one line."""
    assert out.endswith("\n")
    assert out.count("\n") == 1
    data = json.loads(out, parse_constant=lambda word: pytest.fail(f"{word} is not JSON"))
    assert isinstance(data, dict)
    return data


# segment -------------------------------------------------------------------------------------------------------------


def test_segment_with_json(
    run: Run, picture: Path, exported_bundle: Path, predictor: samsdk.Predictor, tissue: NDArray[np.uint8]
) -> None:
    how = ("--model", exported_bundle, "--device", "cpu", "--json")
    code, out, err = run("segment", picture, "--box", "120,100,300,260", *how)
    expected = predictor.segment(tissue, box=BOX)
    data = only_object(out)
    assert (code, err) == (0, "")
    assert data["rle"] == expected.rle()
    assert data["box"] == list(expected.box or ())
    assert data["score"] == pytest.approx(expected.score, abs=1e-5)
    assert data["confidence"] == pytest.approx(expected.confidence, abs=1e-5)
    assert (data["size"], data["area"]) == ([512, 512], expected.area)
    assert (data["bundle"], data["provider"]) == (expected.bundle, "CPUExecutionProvider")
    assert set(data["timings"]) == {"preprocess", "encode", "decode", "postprocess"}


def test_segment_for_people_writes_mask_and_overlay(
    run: Run, picture: Path, exported_bundle: Path, predictor: samsdk.Predictor, tissue: NDArray[np.uint8]
) -> None:
    out_file, overlay = picture.parent / "m.png", picture.parent / "o.png"
    code, out, err = run(
        *("segment", picture, "--point", "200,180", "--point", "20,30,0", "--model", exported_bundle),
        *("-o", out_file, "--overlay", overlay, "--device", "cpu"),
    )
    assert (code, err) == (0, "")
    expected = predictor.segment(tissue, points=[(200, 180), (20, 30)], labels=[1, 0])
    certainty = f"score {expected.score:.3f}  confidence {expected.confidence:.3f}"
    assert out.startswith(f"{certainty}  area {expected.area} px  box {expected.box}\n")
    assert f"output: {out_file}\noverlay: {overlay}\n" in out
    np.testing.assert_array_equal(cv2.imread(str(out_file), cv2.IMREAD_UNCHANGED), expected.mask * np.uint8(255))
    np.testing.assert_array_equal(cv2.imread(str(overlay))[..., ::-1], expected.overlay(tissue))


@pytest.mark.parametrize("kind", ["grey png", "colour png", "float tiff"])
def test_segment_takes_a_mask_file(
    run: Run, picture: Path, exported_bundle: Path, predictor: samsdk.Predictor, tissue: NDArray[np.uint8], kind: str
) -> None:
    mask = np.zeros((512, 512), dtype=np.uint8)
    mask[100:260, 120:300] = 7
    file = picture.parent / ("mask.tiff" if kind == "float tiff" else "mask.png")
    content = {"grey png": mask, "colour png": np.dstack([mask * 0, mask, mask * 0]), "float tiff": np.float32(mask)}
    cv2.imwrite(str(file), content[kind])
    code, out, _ = run("segment", picture, "--mask", file, "--model", exported_bundle, "--json")
    assert code == 0
    assert only_object(out)["rle"] == predictor.segment(tissue, mask=mask).rle()


@pytest.mark.parametrize("option", ["-o", "--overlay"])
def test_an_output_that_cannot_be_written_fails_and_leaves_nothing(
    run: Run, picture: Path, exported_bundle: Path, option: str
) -> None:
    before = sorted(picture.parent.iterdir())
    common = ("segment", picture, "--box", "120,100,300,260", "--model", exported_bundle, "--json", option)
    code, out, err = run(*common, picture.parent / "absent" / "m.png")
    assert code == 1
    error = only_object(out)["error"]
    assert error["type"] == "OutputError"
    assert "the folder" in error["message"]
    assert "does not exist; create it first" in error["message"]
    assert err == f"samsdk: OutputError: {error['message']}\n"
    # A file where the folder should be; permissions would not stop an administrator.
    code, out, _ = run(*common, picture / "m.png")
    assert (code, only_object(out)["error"]["type"]) == (1, "OutputError")
    assert sorted(picture.parent.iterdir()) == before


def test_an_unknown_suffix_is_refused(run: Run, picture: Path, exported_bundle: Path) -> None:
    target = picture.parent / "m.gif"
    code, _, err = run("segment", picture, "--box", "1,1,9,9", "--model", exported_bundle, "-o", target)
    assert code == 1
    assert "expected a name that ends in .png, .npz, .nii.gz, .coco.json, .json" in err
    assert not target.exists()


FAILURES = [
    (
        ("segment", "absent.png", "--box", "1,1,2,2", "--model", "{bundle}"),
        "ImageError",
        "expected an image file, found",
    ),
    (("segment", "{picture}", "--box", "1,1,2,999", "--model", "{bundle}"), "PromptError", "must lie inside the image"),
    (("segment", "{picture}", "--point", "1,1,5", "--model", "{bundle}"), "PromptError", "labels must be 1"),
    (("segment", "{picture}", "--box", "1,1,2,2", "--model", "nowhere"), "BundleError", "no bundle at 'nowhere'"),
    (
        ("segment", "{picture}", "--box", "1,1,2,2", "--model", "lite-medsam"),
        "BundleError",
        "samsdk models pull lite-medsam",
    ),
    (
        ("segment", "{picture}", "--box", "1,1,2,2", "--model", "{bundle}", "--device", "x"),
        "BackendError",
        "unknown dev",
    ),
    (("info", "nowhere"), "BundleError", "no bundle at 'nowhere'"),
    (("doctor", "nowhere"), "BundleError", "no bundle at 'nowhere'"),
    (("bench", "nowhere"), "BundleError", "no bundle at 'nowhere'"),
    (("models", "path", "lite-medsam"), "DownloadError", "run `samsdk models pull lite-medsam`"),
    (("models", "path", "x"), "DownloadError", "unknown model 'x'; known models: lite-medsam"),
    (("models", "pull", "lite-medsam", "--from", "{picture}"), "DownloadError", "is not the file that was published"),
    (("models", "pull", "lite-medsam", "--from", "absent.whl"), "DownloadError", "no file at 'absent.whl'"),
    (("models", "pull", "x"), "DownloadError", "unknown model 'x'"),
    (("models", "pull", "student"), "DownloadError", "comes with samsdk"),
]


@pytest.mark.parametrize(("argv", "kind", "message"), FAILURES)
def test_what_fails_exits_1_and_says_why(
    run: Run, picture: Path, exported_bundle: Path, argv: tuple[str, ...], kind: str, message: str
) -> None:
    given = [arg.format(bundle=exported_bundle, picture=picture) for arg in argv]
    code, out, err = run(*given)
    assert (code, out) == (1, "")
    assert err.startswith(f"samsdk: {kind}: ")
    assert message in err
    assert "Traceback" not in err
    code, out, err = run(*given, "--json")
    assert code == 1
    assert only_object(out)["error"]["type"] == kind
    assert message in only_object(out)["error"]["message"]
    assert err.startswith(f"samsdk: {kind}: ")


def test_a_segment_call_without_a_prompt_is_a_wrong_call(run: Run, picture: Path, exported_bundle: Path) -> None:
    code, out, err = run("segment", str(picture), "--model", str(exported_bundle), "--json")
    assert code == 2
    assert only_object(out)["error"]["message"].startswith("give a prompt: --point X,Y[,LABEL], --box")
    assert err.startswith("samsdk: WrongCallError: give a prompt")


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ((), "the following arguments are required: COMMAND"),
        (("sing",), "invalid choice: 'sing'"),
        (("segment",), "the following arguments are required: image"),
        (("segment", "a.png", "--box", "1,2,3"), "expected X0,Y0,X1,Y1, got '1,2,3'"),
        (("segment", "a.png", "--box", "a,b,c,d"), "expected X0,Y0,X1,Y1, got 'a,b,c,d'"),
        (("segment", "a.png", "--point", "1"), "expected X,Y or X,Y,LABEL, got '1'"),
        (("models",), "the following arguments are required: ACTION"),
        (("models", "pull"), "the following arguments are required: name"),
        (("bench", "--repeats", "0"), "expected a whole number of at least 1, got '0'"),
        (("bench", "--prompts", "1.5"), "expected a whole number of at least 1, got '1.5'"),
    ],
)
def test_a_wrong_call_exits_2_with_the_usage(run: Run, argv: tuple[str, ...], message: str) -> None:
    code, out, err = run(*argv)
    assert (code, out) == (2, "")
    assert err.startswith("usage: samsdk")
    assert message in err


@pytest.mark.parametrize("asked", [False, True])
def test_an_interrupted_command_says_so(run: Run, monkeypatch: pytest.MonkeyPatch, asked: bool) -> None:
    def interrupt(_: object) -> command.Report:
        raise KeyboardInterrupt

    monkeypatch.setattr(bundle_commands, "_run_info", interrupt)
    code, out, err = run("info", *(["--json"] if asked else []))
    assert (code, err) == (1, "samsdk: KeyboardInterrupt: interrupted; nothing half-written was left\n")
    if asked:
        assert only_object(out)["error"]["type"] == "KeyboardInterrupt"
    else:
        assert out == ""


# models, info, doctor, bench -----------------------------------------------------------------------------------------


def test_models_list(run: Run) -> None:
    code, out, err = run("models", "list")
    assert (code, err) == (0, "")
    assert out.splitlines()[0].startswith("student  ")
    assert out.splitlines()[1] == "lite-medsam  39.4 MB  Apache-2.0  weights: -  bundle: -"
    assert out.splitlines()[3] == "sam-vit-b  375.0 MB  Apache-2.0  weights: -  bundle: -"
    code, out, _ = run("models", "list", "--json")
    assert [model["name"] for model in only_object(out)["models"]] == ["student", *samsdk.hub.MODELS]
    model = only_object(out)["models"][1]
    assert (code, model["name"], model["weights"], model["bundle"]) == (0, "lite-medsam", None, None)


def test_models_path(run: Run, tmp_path: Path) -> None:
    weights = samsdk.hub.weights_path("lite-medsam")
    weights.parent.mkdir(parents=True)
    weights.write_bytes(b"weights")
    assert run("models", "path", "lite-medsam") == (0, f"{weights}\n", "")
    _, out, _ = run("models", "path", "lite-medsam", "--json")
    assert only_object(out) == {"name": "lite-medsam", "weights": str(weights), "bundle": None}
    assert run("models", "path", "student") == (0, f"{samsdk.hub.bundle_path('student')}\n", "")


def test_info(run: Run, exported_bundle: Path) -> None:
    identity = Bundle.open(exported_bundle).identity
    code, out, err = run("info", exported_bundle)
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[:5] == [
        f"tiny 1  promptable  {identity}",
        f"path: {exported_bundle}",
        "input 64 px  embedding [32, 16, 16]",
        "prompts: points, box, mask (trained with: points, box, mask)",
        "licence: CC0-1.0  random weights",
    ]
    assert lines[5].startswith("tier exact on onnxruntime-cpu: passed, largest logit difference ")
    code, out, _ = run("info", exported_bundle, "--json")
    manifest = json.loads((exported_bundle / "manifest.json").read_bytes())
    assert (code, only_object(out)) == (0, {**manifest, "path": str(exported_bundle), "identity": identity})


def test_doctor_exits_0_for_a_good_bundle_and_1_for_one_that_computes_something_else(
    run: Run, tiny_bundle: Path
) -> None:
    code, out, err = run("doctor", tiny_bundle)
    assert (code, err) == (0, "")
    assert "\npass  tier exact on cpu: 8 golden prompts, " in out
    images, samples, cases = read_golden(Bundle.open(tiny_bundle))
    content = write_golden(images, samples, [replace(case, low_res_masks=case.low_res_masks + 1e-2) for case in cases])
    (tiny_bundle / "golden.npz").write_bytes(content)
    manifest = json.loads((tiny_bundle / "manifest.json").read_bytes())
    manifest["files"]["golden.npz"]["sha256"] = hashlib.sha256(content).hexdigest()
    (tiny_bundle / "manifest.json").write_text(json.dumps(manifest))
    code, out, _ = run("doctor", tiny_bundle)
    assert code == 1
    assert "\nFAIL  tier exact on cpu: 8 golden prompts, largest logit difference 1.0e-02" in out
    code, out, _ = run("doctor", tiny_bundle, "--json")
    data = only_object(out)
    assert (code, data["passed"], data["checks"][0]["passed"]) == (1, False, False)


def test_doctor_certifies_what_the_bundle_does_not(run: Run, tiny_bundle: Path, picture: Path) -> None:
    manifest = json.loads((tiny_bundle / "manifest.json").read_bytes())
    (tiny_bundle / "manifest.json").write_text(json.dumps({**manifest, "parity": {}}))
    segment = ("segment", picture, "--box", "1,1,90,90", "--model", tiny_bundle, "--device", "cpu")
    assert run(*segment)[0] == 1
    code, out, _ = run("doctor", tiny_bundle, "--device", "cpu")
    assert (code, "the runtime refuses it" in out) == (0, True)
    code, out, _ = run("doctor", tiny_bundle, "--device", "cpu", "--certify")
    assert (code, "the runtime refuses it" in out) == (0, False)
    assert run(*segment)[0] == 0


def test_doctor_says_what_is_wrong_with_the_installation(
    run: Run, exported_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("samsdk.doctor.installation_problems", lambda: ["two of them"])
    code, out, _ = run("doctor", exported_bundle, "--device", "cpu")
    assert code == 1
    assert "\nFAIL  installation: two of them\npass  tier exact on cpu: " in out


def test_a_tier_is_asked_for_by_name(run: Run, tiny_bundle: Path, picture: Path) -> None:
    call = ("segment", picture, "--box", "1,1,90,90", "--model", tiny_bundle, "--device", "cpu", "--json", "--tier")
    code, out, _ = run(*call, "fast")
    assert (code, only_object(out)["error"]["message"]) == (1, "bundle 'tiny' has no tier 'fast'; it has: exact")
    assert run(*call, "exact")[0] == 0


def test_bench(run: Run, exported_bundle: Path) -> None:
    how = ("--repeats", 2, "--prompts", 3, "--prompts", 2, "--device", "cpu", "--threads", 1)
    code, out, err = run("bench", exported_bundle, *how)
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[0].startswith("tiny@")
    assert lines[0].endswith(" GFLOP/s  p50 / p95 / p99 in ms")
    assert lines[1].startswith("cpu, tier exact (float32): cold start ")
    assert [line.split()[0] for line in lines[2:]] == ["encode", "decode_3", "decode_2", "end_to_end"]
    code, out, _ = run("bench", exported_bundle, "--repeats", 1, "--device", "cpu", "--tier", "exact", "--json")
    data = only_object(out)
    assert (code, data["repeats"], data["threads"]) == (0, 1, None)
    (row,) = data["systems"]
    assert list(row["ms"]) == ["encode", "decode_1", "decode_4", "decode_16", "end_to_end"]
    assert row["ms"]["decode_1"]["p50"] > 0


# The program itself --------------------------------------------------------------------------------------------------


def test_the_real_program_keeps_its_logs_on_stderr(picture: Path, exported_bundle: Path) -> None:
    command = [sys.executable, "-m", "samsdk", "segment", str(picture), "--box", "120,100,300,260"]
    done = subprocess.run(
        [*command, "--model", str(exported_bundle), "--device", "cpu", "--json", "-v"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert only_object(done.stdout)["size"] == [512, 512]
    assert "samsdk.backends.onnxruntime: graph with outputs ['image_embeddings'] runs on" in done.stderr


def test_the_real_program_fails_without_a_traceback(picture: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "samsdk", "segment", str(picture), "--box", "1,1,2,2", "--json"]
    done = subprocess.run([*command, "--model", str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert only_object(done.stdout)["error"]["type"] == "BundleError"
    assert "it has no manifest.json" in done.stderr
    assert "Traceback" not in done.stderr
