"""SAMed's files against SAMed's own computation: the base with low-rank branches beside its projections."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from samsdk_training.checkpoints import CheckpointError, load_checkpoint, save_checkpoint
from samsdk_training.importers import import_weights
from samsdk_training.importers.published import LORAS, PUBLISHED
from samsdk_training.models import SamConfig, VitConfig, build_sam
from samsdk_training.models.sam_config import DecoderConfig

RANK, CLASSES = 4, 5
BASE = SamConfig(
    VitConfig(image_size=128, embed_dim=16, depth=2, num_heads=2, global_blocks=(1,), window_size=3, out_channels=32),
    DecoderConfig(num_heads=2, mlp_dim=32, iou_head_hidden_dim=16),
    mask_channels=8,
)


class Branch(nn.Module):
    """A projection with low-rank branches beside parts of its output."""

    def __init__(self, inner: nn.Linear, branches: list[tuple[slice, Tensor, Tensor]]) -> None:
        super().__init__()
        self.inner, self.branches = inner, branches

    def forward(self, x: Tensor) -> Tensor:
        out = self.inner(x).clone()
        for part, a, b in self.branches:
            out[..., part] += (x @ a.T) @ b.T
        return out


@pytest.fixture
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    for kind in ("sam-vit-b", "sam-vit-h"):
        monkeypatch.setitem(PUBLISHED, kind, replace(PUBLISHED[kind], config=BASE))
    for kind, lora in LORAS.items():
        monkeypatch.setitem(LORAS, kind, replace(lora, image_size=64))


def randn(generator: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=generator) * 0.3


def make_files(folder, decoder: bool):
    """A base file and a SAMed file, and the model that SAMed computes with both."""
    generator = torch.Generator().manual_seed(9)
    base = {key: randn(generator, *tensor.shape) for key, tensor in build_sam(BASE).state_dict().items()}
    torch.save(base, folder / "base.pth")
    encoder = replace(BASE.encoder, image_size=64)
    wanted = replace(BASE, encoder=encoder, decoder=replace(BASE.decoder, num_multimask_outputs=CLASSES))
    resized = import_weights(folder / "base.pth", "sam-vit-b", image_size=64).state
    model = build_sam(wanted).eval()
    file = {
        key: randn(generator, *tensor.shape)
        for key, tensor in model.state_dict().items()
        if key.startswith(("prompt_encoder.", "mask_decoder."))
        and not (decoder and key.startswith("mask_decoder.transformer."))
    }
    model.load_state_dict({**{k: v for k, v in resized.items() if k in model.state_dict()}, **file})
    pairs = {}

    def pair(a_key: str, b_key: str, width: int, out: int) -> tuple[Tensor, Tensor]:
        pairs[a_key], pairs[b_key] = randn(generator, RANK, width), randn(generator, out, RANK)
        return pairs[a_key], pairs[b_key]

    for i, block in enumerate(model.image_encoder.blocks):
        q = pair(f"w_a_{2 * i:03d}", f"w_b_{2 * i:03d}", 16, 16)
        v = pair(f"w_a_{2 * i + 1:03d}", f"w_b_{2 * i + 1:03d}", 16, 16)
        block.attn.qkv = Branch(block.attn.qkv, [(slice(0, 16), *q), (slice(32, 48), *v)])
    if decoder:
        transformer = model.mask_decoder.transformer
        names = {"sa": "self_attn", "cti": "cross_attn_token_to_image", "cit": "cross_attn_image_to_token"}
        for short, name in names.items():
            for i, layer in enumerate(transformer.layers):
                wrap(getattr(layer, name), pair, [(f"{short}_{{}}_{2 * i + j:03d}", p) for j, p in enumerate("qv")])
        wrap(transformer.final_attn_token_to_image, pair, [(f"fati_{p}{{}}", p) for p in "qv"])
    torch.save({**pairs, **file}, folder / "epoch_159.pth")
    return model


def wrap(attention, pair, names) -> None:
    for key, part in names:
        linear = getattr(attention, f"{part}_proj")
        a, b = pair(key.format("a"), key.format("b"), linear.in_features, linear.out_features)
        setattr(attention, f"{part}_proj", Branch(linear, [(slice(None), a, b)]))


@pytest.mark.usefixtures("_small")
@pytest.mark.parametrize(
    ("kind", "decoder", "sites"), [("samed", False, 4), ("samed-s", True, 18), ("samed-h", False, 4)]
)
def test_a_merged_model_computes_what_samed_does(tmp_path, relative_error, kind, decoder, sites) -> None:
    oracle = make_files(tmp_path, decoder)
    checkpoint = import_weights(tmp_path / "epoch_159.pth", kind, base=tmp_path / "base.pth")
    assert checkpoint.model["decoder"]["num_multimask_outputs"] == CLASSES
    assert checkpoint.classes == {"0": "background"} | {str(n): f"class {n}" for n in range(1, CLASSES + 1)}
    assert checkpoint.task == "semantic"
    assert checkpoint.preprocessing == replace(LORAS[kind].preprocessing, input_size=64)
    lineage = checkpoint.lineage
    assert lineage["merged"] is True
    assert (lineage["recipe"], lineage["lora"]) == (kind, {"rank": RANK, "scale": 1.0, "merged": sites})
    assert lineage["base"]["sha256"] != lineage["sha256"]
    assert lineage["base"]["resized"]["to"] == 64
    save_checkpoint(checkpoint, tmp_path / "merged")
    merged = load_checkpoint(tmp_path / "merged").build()
    image = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    # The merged weights are rounded to single precision, whatever is computed with them.
    for dtype, bound in ((torch.float32, 1e-5), (torch.float64, 1e-6)):
        merged, oracle = merged.to(dtype), double_pairs(oracle.to(dtype), dtype)
        with torch.inference_mode():
            embeddings, expected = merged.encode(image.to(dtype)), oracle.encode(image.to(dtype))
            assert relative_error(embeddings["image_embeddings"], expected["image_embeddings"]) <= bound
            # Prompt-free, as SAMed is used: no token but the learned ones, one image after the other.
            one = {"image_embeddings": expected["image_embeddings"][:1]}
            assert relative_error(predict(merged, one), predict(oracle, one)) <= bound


def double_pairs(model, dtype):
    for module in model.modules():
        if isinstance(module, Branch):
            module.branches = [(part, a.to(dtype), b.to(dtype)) for part, a, b in module.branches]
    return model


def predict(model, embeddings) -> Tensor:
    sparse, dense = model.prompt_encoder(None, None, None)
    decoder, positions = model.mask_decoder, model.prompt_encoder.get_dense_pe()
    return decoder.predict_masks(embeddings["image_embeddings"], positions, sparse, dense)[0]


@pytest.mark.usefixtures("_small")
def test_the_pairs_matter_and_keys_are_left_alone(tmp_path) -> None:
    make_files(tmp_path, decoder=True)
    file = torch.load(tmp_path / "epoch_159.pth", weights_only=True)
    merged = import_weights(tmp_path / "epoch_159.pth", "samed-s", base=tmp_path / "base.pth").state
    base = torch.load(tmp_path / "base.pth", weights_only=True)
    key = "image_encoder.blocks.1.attn.qkv.weight"
    assert torch.equal(merged[key][16:32], base[key][16:32])
    torch.testing.assert_close(merged[key][:16] - base[key][:16], file["w_b_002"] @ file["w_a_002"], rtol=0, atol=1e-6)
    torch.testing.assert_close(merged[key][32:] - base[key][32:], file["w_b_003"] @ file["w_a_003"], rtol=0, atol=1e-6)
    key = "mask_decoder.transformer.layers.1.cross_attn_image_to_token.v_proj.weight"
    torch.testing.assert_close(merged[key] - base[key], file["cit_b_003"] @ file["cit_a_003"], rtol=0, atol=1e-6)
    untouched = key.replace("v_proj", "k_proj")
    assert torch.equal(merged[untouched], base[untouched])


@pytest.mark.usefixtures("_small")
@pytest.mark.parametrize(
    ("kind", "encoder", "decoder"),
    [
        ("samed", (2.8327057723, 203.5983953834, 0.0626382008), (7.7356385511, 126.8696284030, 0.0476936698)),
        ("samed-s", (-3.8782975277, 211.9151458374, 0.0491885170), (6.4717494976, 135.7219660115, -0.1064569503)),
    ],
)
def test_merged_weights_are_as_they_always_were(tmp_path, kind, encoder, decoder) -> None:
    make_files(tmp_path, decoder=kind == "samed-s")
    state = import_weights(tmp_path / "epoch_159.pth", kind, base=tmp_path / "base.pth").state
    golden = {
        "image_encoder.blocks.1.attn.qkv.weight": encoder,
        "mask_decoder.transformer.final_attn_token_to_image.v_proj.weight": decoder,
    }
    for key, expected in golden.items():
        weight = state[key].double()
        got = (weight.sum().item(), weight.abs().sum().item(), weight[3, 5].item())
        assert got == pytest.approx(expected, rel=1e-6, abs=1e-5)


@pytest.mark.usefixtures("_small")
def test_the_base_may_be_a_checkpoint_s_folder_and_classes_have_names(tmp_path) -> None:
    make_files(tmp_path, decoder=False)
    save_checkpoint(import_weights(tmp_path / "base.pth", "sam-vit-b"), tmp_path / "base")
    names = ["spleen", "right kidney", "left kidney", "gallbladder", "liver"]
    one = import_weights(tmp_path / "epoch_159.pth", "samed", base=tmp_path / "base", classes=names)
    other = import_weights(tmp_path / "epoch_159.pth", "samed", base=tmp_path / "base.pth")
    assert all(torch.equal(one.state[key], tensor) for key, tensor in other.state.items())
    assert one.classes == {"0": "background"} | {str(i + 1): name for i, name in enumerate(names)}
    with pytest.raises(CheckpointError, match="has 5 classes, got 2 names"):
        import_weights(tmp_path / "epoch_159.pth", "samed", base=tmp_path / "base", classes=names[:2])
    other_shape = replace(PUBLISHED["sam-vit-b"].config, mask_channels=4)
    save_checkpoint(
        replace(one, model=other_shape.to_dict(), state=build_sam(other_shape).state_dict(), task="promptable"),
        tmp_path / "other",
    )
    with pytest.raises(CheckpointError, match="is not of the architecture of Segment Anything, ViT-B"):
        import_weights(tmp_path / "epoch_159.pth", "samed", base=tmp_path / "other")


@pytest.mark.usefixtures("_small")
def test_every_tensor_that_does_not_fit_is_named_in_one_error(tmp_path) -> None:
    make_files(tmp_path, decoder=True)
    file = torch.load(tmp_path / "epoch_159.pth", weights_only=True)
    del file["w_a_001"], file["mask_decoder.iou_token.weight"]
    file["w_b_002"] = torch.zeros(17, RANK)
    file["w_a_004"] = torch.zeros(RANK, 16)
    file["head.weight"] = torch.zeros(3)
    file["mask_decoder.transformer.norm_final_attn.bias"] = torch.zeros(32)
    torch.save(file, tmp_path / "wrong.pth")
    with pytest.raises(CheckpointError, match=r"'wrong\.pth' are not those of SAMed_s:") as caught:
        import_weights(tmp_path / "wrong.pth", "samed-s", base=tmp_path / "base.pth")
    assert caught.value.problems == (
        "missing: w_a_001",
        "unexpected: head.weight (3,)",
        "unexpected: mask_decoder.transformer.norm_final_attn.bias (32,)",
        "unexpected: w_a_004 (4, 16)",
        "wrong shape: w_a_002 and w_b_002: expected (r, 16), (16, r), got (4, 16), (17, 4)",
        "missing: mask_decoder.iou_token.weight (1, 32)",
    )


@pytest.mark.usefixtures("_small")
def test_a_file_of_one_variant_is_not_taken_for_another(tmp_path) -> None:
    make_files(tmp_path, decoder=True)
    with pytest.raises(CheckpointError) as caught:
        import_weights(tmp_path / "epoch_159.pth", "samed", base=tmp_path / "base.pth")
    assert "unexpected: fati_qa (4, 32)" in caught.value.problems
    assert "missing: mask_decoder.transformer.norm_final_attn.bias (32,)" in caught.value.problems
    with pytest.raises(CheckpointError, match="SAMed_h's file holds changes to Segment Anything, ViT-H: give that as"):
        import_weights(tmp_path / "epoch_159.pth", "samed-h")
