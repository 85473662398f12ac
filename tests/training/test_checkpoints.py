import hashlib
import json
import os
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file

from samsdk.errors import OutputError, SamsdkError
from samsdk_training.checkpoints import Checkpoint, CheckpointError, load_checkpoint, save_checkpoint
from samsdk_training.models import build_sam

TENSOR = "mask_decoder.iou_token.weight"


@pytest.fixture
def checkpoint(small_config, randomise) -> Checkpoint:
    sam = build_sam(small_config)
    randomise(sam, 6)
    return Checkpoint(
        model=small_config.to_dict(),
        geometry={"rule": "longest_pad_br", "input_size": 64},
        intensity={"rule": "uint8_or_minmax"},
        normalisation={"rule": "minmax"},
        prompts={"kinds": ["points", "box"], "trained": ["box"], "mask": "logits"},
        classes={"1": "Leberläsion"},
        licence={"id": "Apache-2.0"},
        lineage={"recipe": "test"},
        state=sam.state_dict(),
    )


@pytest.fixture
def folder(checkpoint, tmp_path):
    save_checkpoint(checkpoint, tmp_path / "saved")
    return tmp_path / "saved"


def rewrite(folder, change) -> None:
    """Change the tensors and make the hash agree again, as a wrong but careful writer would."""
    state = load_file(folder / "model.safetensors")
    change(state)
    save_file(state, folder / "model.safetensors")
    described = json.loads((folder / "model.json").read_text(encoding="utf-8"))
    described["tensors"]["sha256"] = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    (folder / "model.json").write_text(json.dumps(described), encoding="utf-8")


def redescribe(folder, change) -> None:
    described = json.loads((folder / "model.json").read_text(encoding="utf-8"))
    change(described)
    (folder / "model.json").write_text(json.dumps(described), encoding="utf-8")


def test_roundtrip_is_exact(checkpoint, folder) -> None:
    loaded = load_checkpoint(folder)
    assert sorted(path.name for path in folder.iterdir()) == ["model.json", "model.safetensors"]
    for name in ("model", "geometry", "intensity", "normalisation", "prompts", "classes", "licence", "lineage"):
        assert getattr(loaded, name) == getattr(checkpoint, name)
    assert loaded.state.keys() == checkpoint.state.keys()
    for key, tensor in checkpoint.state.items():
        assert loaded.state[key].dtype == tensor.dtype
        assert torch.equal(loaded.state[key], tensor), key


def test_built_model_computes_what_the_saved_one_computed(checkpoint, folder) -> None:
    image = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    boxes = torch.tensor([[5.0, 6.0, 40.0, 50.0]])
    before, after = checkpoint.build(), load_checkpoint(folder).build()
    assert not after.training
    with torch.inference_mode():
        expected, got = before(image, boxes=boxes), after(image, boxes=boxes)
    assert torch.equal(got[0], expected[0])
    assert torch.equal(got[1], expected[1])


def test_tensors_that_share_memory_or_are_not_contiguous_are_saved(checkpoint, tmp_path) -> None:
    shared = torch.arange(64.0).reshape(2, 32)
    state = {
        **checkpoint.state,
        TENSOR: shared[:1],
        "prompt_encoder.no_mask_embed.weight": shared[1:],
        "prompt_encoder.not_a_point_embed.weight": torch.arange(64.0).reshape(32, 2).T[1:],
    }
    save_checkpoint(replace(checkpoint, state=state), tmp_path / "new")
    loaded = load_checkpoint(tmp_path / "new").state
    assert all(torch.equal(loaded[key], tensor) for key, tensor in state.items())


def test_an_earlier_checkpoint_is_replaced(checkpoint, folder, tmp_path) -> None:
    save_checkpoint(replace(checkpoint, lineage={"recipe": "second"}), folder)
    assert load_checkpoint(folder).lineage == {"recipe": "second"}
    assert [path.name for path in tmp_path.iterdir()] == ["saved"]


def test_other_files_in_the_target_are_not_taken_away(checkpoint, folder) -> None:
    (folder / "notes.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"other files.*\n.*notes\.txt"):
        save_checkpoint(checkpoint, folder)
    assert (folder / "notes.txt").read_text(encoding="utf-8") == "mine"


def test_a_file_in_the_way_is_not_replaced(checkpoint, tmp_path) -> None:
    (tmp_path / "taken").write_text("mine", encoding="utf-8")
    with pytest.raises(CheckpointError, match="expected a folder, got a file"):
        save_checkpoint(checkpoint, tmp_path / "taken")
    assert (tmp_path / "taken").read_text(encoding="utf-8") == "mine"


@pytest.mark.parametrize("failure", [OSError("disk gone"), KeyboardInterrupt()])
def test_interrupted_before_the_rename_nothing_is_left(checkpoint, tmp_path, monkeypatch, failure) -> None:
    def fail(*_: object) -> None:
        raise failure

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises((OutputError, KeyboardInterrupt)):
        save_checkpoint(checkpoint, tmp_path / "new")
    assert list(tmp_path.iterdir()) == []


def test_killed_between_the_two_files_nothing_loads(checkpoint, tmp_path, monkeypatch) -> None:
    def die(*_: object) -> None:
        raise SystemExit

    # A killed process runs no clean-up either.
    monkeypatch.setattr("samsdk_training.checkpoints.file_sha256", die)
    monkeypatch.setattr("samsdk.io.atomic.shutil.rmtree", lambda *_, **__: None)
    with pytest.raises(SystemExit):
        save_checkpoint(checkpoint, tmp_path / "new")
    monkeypatch.undo()
    (left,) = tmp_path.iterdir()
    assert left.name != "new"
    with pytest.raises(CheckpointError, match=r"missing file: model\.json"):
        load_checkpoint(left)


def test_failing_to_replace_keeps_the_earlier_one(checkpoint, folder, tmp_path, monkeypatch) -> None:
    rename = os.replace

    def fail_on_publishing(source, target) -> None:
        if str(source).endswith(".partial"):
            raise OSError("disk gone")
        rename(source, target)

    monkeypatch.setattr(os, "replace", fail_on_publishing)
    with pytest.raises(OutputError, match="disk gone"):
        save_checkpoint(replace(checkpoint, lineage={"recipe": "second"}), folder)
    assert load_checkpoint(folder).lineage == {"recipe": "test"}
    assert [path.name for path in tmp_path.iterdir()] == ["saved"]


@pytest.mark.parametrize("value", [{1, 2}, float("nan"), torch.zeros(1)])
def test_descriptions_that_are_not_json_are_refused(checkpoint, tmp_path, value) -> None:
    with pytest.raises(CheckpointError, match="not plain JSON"):
        save_checkpoint(replace(checkpoint, lineage={"value": value}), tmp_path / "new")
    assert list(tmp_path.iterdir()) == []


def test_a_checkpoint_that_would_not_load_is_not_saved(checkpoint, tmp_path) -> None:
    state = {key: tensor for key, tensor in checkpoint.state.items() if key != TENSOR}
    with pytest.raises(CheckpointError, match=f"missing: {TENSOR}"):
        save_checkpoint(replace(checkpoint, state=state), tmp_path / "new")
    assert list(tmp_path.iterdir()) == []


def test_every_wrong_tensor_is_named_in_one_error(folder) -> None:
    def change(state) -> None:
        del state[TENSOR]
        state["mask_decoder.extra"] = torch.zeros(3)
        state["mask_decoder.mask_tokens.weight"] = torch.zeros(5, 32)

    rewrite(folder, change)
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(folder)
    assert caught.value.problems == (
        "unexpected: mask_decoder.extra (3,)",
        f"missing: {TENSOR} (1, 32)",
        "wrong shape: mask_decoder.mask_tokens.weight: expected (4, 32), got (5, 32)",
    )
    assert all(problem in str(caught.value) for problem in caught.value.problems)
    assert isinstance(caught.value, SamsdkError)


def test_building_checks_the_tensors_too(checkpoint) -> None:
    with pytest.raises(CheckpointError, match=r"unexpected: extra \(2,\)"):
        replace(checkpoint, state={**checkpoint.state, "extra": torch.zeros(2)}).build()


@pytest.mark.parametrize("position", [0.001, 0.5, 0.999])
def test_a_flipped_byte_is_found(folder, position) -> None:
    path = folder / "model.safetensors"
    damaged = bytearray(path.read_bytes())
    damaged[int(position * len(damaged))] ^= 1
    path.write_bytes(damaged)
    with pytest.raises(CheckpointError, match=r"damaged.*expected sha256 [0-9a-f]{64}, got [0-9a-f]{64}"):
        load_checkpoint(folder)


def test_bytes_that_are_no_safetensors_are_refused_even_with_their_hash(folder) -> None:
    junk = b"junk" * 100
    (folder / "model.safetensors").write_bytes(junk)
    redescribe(folder, lambda d: d["tensors"].update(sha256=hashlib.sha256(junk).hexdigest()))
    with pytest.raises(CheckpointError, match="cannot be read as safetensors"):
        load_checkpoint(folder)


@pytest.mark.parametrize("text", ["{", "", "\xff\xfe"])
def test_invalid_json_is_refused(folder, text) -> None:
    (folder / "model.json").write_text(text, encoding="latin-1")
    with pytest.raises(CheckpointError, match=r"model\.json.* cannot be read as JSON"):
        load_checkpoint(folder)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda d: d.update(format=2), "expected checkpoint format 1, got 2"),
        (lambda d: d.update(format="1"), "expected checkpoint format 1, got '1'"),
        (lambda d: d.update(format=True), "expected checkpoint format 1, got True"),
        (lambda d: d.pop("format"), "expected checkpoint format 1, got None"),
        (lambda d: d.pop("licence"), "missing field: licence"),
        (lambda d: d.update(pickle=1), "unknown field: pickle"),
        (lambda d: d.update(geometry=[]), "field geometry: expected an object, got list"),
        (lambda d: d.update(tensors={}), "expected the sha256 of the tensor file"),
        (lambda d: d["model"].update(architecture="x"), "configuration is not valid: model: expected the architecture"),
        (lambda d: d["model"]["encoder"].update(depths=[9] * 3), "configuration is not valid"),
    ],
)
def test_descriptions_with_errors_are_refused(folder, change, text) -> None:
    redescribe(folder, change)
    with pytest.raises(CheckpointError, match=text):
        load_checkpoint(folder)


def test_a_description_that_is_no_object_is_refused(folder) -> None:
    (folder / "model.json").write_text("[]", encoding="utf-8")
    with pytest.raises(CheckpointError, match="expected a JSON object, got list"):
        load_checkpoint(folder)


@pytest.mark.parametrize("name", ["model.json", "model.safetensors"])
def test_a_missing_file_is_named(folder, name) -> None:
    (folder / name).unlink()
    with pytest.raises(CheckpointError, match=f"missing file: {name}"):
        load_checkpoint(folder)


def test_a_missing_folder_names_both_files(tmp_path) -> None:
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(tmp_path / "nothing")
    assert caught.value.problems == ("missing file: model.json", "missing file: model.safetensors")


def semantic(checkpoint, **changes) -> Checkpoint:
    classes = {str(number): name for number, name in enumerate(("background", "liver", "spleen", "aorta"))}
    prompts = {"kinds": [], "trained": [], "mask": "logits"}
    return replace(checkpoint, **{"task": "semantic", "classes": classes, "prompts": prompts, **changes})


def test_the_task_is_kept_and_an_old_checkpoint_is_promptable(checkpoint, folder, tmp_path) -> None:
    save_checkpoint(semantic(checkpoint), tmp_path / "organs")
    assert load_checkpoint(tmp_path / "organs").task == "semantic"
    assert json.loads((folder / "model.json").read_text(encoding="utf-8"))["task"] == "promptable"
    redescribe(folder, lambda described: described.pop("task"))
    old = load_checkpoint(folder)
    assert old.task == "promptable"
    assert old.model == checkpoint.model


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"classes": {"0": "background", "1": "liver"}}, "classes: expected one for each mask, 0 to 3, got 0, 1"),
        ({"classes": {"1": "a", "2": "b", "3": "c", "4": "d"}}, "one for each mask, 0 to 3, got 1, 2, 3, 4"),
        ({"prompts": {"kinds": ["box"], "mask": "logits"}}, "prompts: a semantic model takes none, got box"),
        ({"task": "automatic"}, "task: expected one of promptable, semantic, auto, volume, got 'automatic'"),
    ],
)
def test_a_task_that_the_rest_contradicts_is_refused(checkpoint, tmp_path, changes, text) -> None:
    with pytest.raises(CheckpointError) as caught:
        save_checkpoint(semantic(checkpoint, **changes), tmp_path / "organs")
    assert text in str(caught.value)
    assert not (tmp_path / "organs").exists()


def test_a_task_that_is_no_word_is_refused(folder) -> None:
    redescribe(folder, lambda described: described.update(task=["semantic"]))
    with pytest.raises(CheckpointError, match="field task: expected a word, got list"):
        load_checkpoint(folder)


@pytest.mark.parametrize(("prompts", "single"), [({}, "first"), ({"single": "best"}, "best")])
def test_which_mask_answers(checkpoint, prompts, single) -> None:
    assert replace(checkpoint, prompts={**checkpoint.prompts, **prompts}).single_mask == single
