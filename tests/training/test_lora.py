"""Pairs of low-rank matrices against plain formulas, layout by layout; and what is trained of a model."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from samsdk_training.lora import LoraConfig, LoraError, LoraSite, LowRank, add_product, lora_sites, retained_adapters
from samsdk_training.models import SamConfig, VitConfig, build_sam, sam_med2d_config, sam_vit_config, student_config
from samsdk_training.models.sam_config import DecoderConfig
from samsdk_training.models.student import StudentEncoderConfig
from samsdk_training.models.vit import vit_config
from samsdk_training.tuning import Tuning, trainable_parameters, tune

DECODER = DecoderConfig(num_heads=2, mlp_dim=32, iou_head_hidden_dim=16)
VIT = SamConfig(
    VitConfig(image_size=64, embed_dim=16, depth=2, num_heads=2, global_blocks=(1,), window_size=3, out_channels=32),
    DECODER,
    mask_channels=8,
)
STUDENT = SamConfig(
    StudentEncoderConfig(64, stem_channels=8, widths=(8, 16, 16, 24), depths=(1, 1, 1, 1), out_channels=32), DECODER
)
# SAMed_s trains everything in the decoder but its transformer.
HEAD = (
    "prompt_encoder.*",
    "mask_decoder.iou_token.*",
    "mask_decoder.mask_tokens.*",
    "mask_decoder.output_upscaling.*",
    "mask_decoder.output_hypernetworks_mlps.*",
    "mask_decoder.iou_prediction_head.*",
)
WHOLE = ("prompt_encoder.*", "mask_decoder.*")


def randn(seed: int, *shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def draw_pairs(model: nn.Module) -> None:
    """Give each B random values, since a new one is 0."""
    with torch.no_grad():
        for number, pair in enumerate(one for one in model.modules() if isinstance(one, LowRank)):
            pair.b.copy_(0.3 * randn(number, *pair.b.shape).to(pair.b.dtype))


class Branch(nn.Module):
    """A projection with low-rank branches beside some channels of its output."""

    def __init__(self, inner: nn.Linear, branches: list[tuple[list[int], LowRank]]) -> None:
        super().__init__()
        self.inner, self.branches = inner, branches

    def forward(self, x: Tensor) -> Tensor:
        out = self.inner(x).clone()
        for channels, pair in self.branches:
            out[..., channels] += pair.scale * ((x @ pair.a.T) @ pair.b.T)
        return out


def vit_channels(part: str, heads: int, width: int) -> list[int]:
    first = "qkv".index(part) * heads * width
    return list(range(first, first + heads * width))


def tiny_vit_channels(part: str, heads: int, width: int) -> list[int]:
    return [head * 3 * width + "qkv".index(part) * width + i for head in range(heads) for i in range(width)]


@pytest.mark.parametrize("parts", ["qv", "qkv"])
@pytest.mark.parametrize("kind", ["vit", "tiny_vit"])
def test_an_encoder_computes_what_branches_beside_its_projections_do(
    small_config, randomise, relative_error, kind, parts
) -> None:
    config = VIT if kind == "vit" else small_config
    channels = vit_channels if kind == "vit" else tiny_vit_channels
    plain, tuned = build_sam(config).double().eval(), build_sam(config).double().eval()
    randomise(plain, 1)
    tuned.load_state_dict(plain.state_dict())
    tune(tuned, Tuning(LoraConfig(rank=3, alpha=1.5, encoder=parts)))
    draw_pairs(tuned)
    count = 0
    for name, module in plain.named_modules():
        if name.endswith(".attn"):
            pairs = tuned.get_submodule(name).qkv.parametrizations.weight
            places = [channels(part, module.num_heads, module.head_dim) for part in parts]
            module.qkv = Branch(module.qkv, list(zip(places, pairs, strict=True)))
            count += 1
    assert count == (2 if kind == "vit" else 4)
    image = randn(0, 2, 3, 64, 64)
    with torch.inference_mode():
        expected = plain.image_encoder(image)
        assert relative_error(tuned.image_encoder(image), expected) <= 1e-12


def test_a_decoder_computes_what_branches_beside_its_projections_do(randomise, relative_error) -> None:
    plain, tuned = build_sam(VIT).double().eval(), build_sam(VIT).double().eval()
    randomise(plain, 2)
    tuned.load_state_dict(plain.state_dict())
    sites = tune(tuned, Tuning(LoraConfig(rank=2, encoder="none", decoder="qv")))
    draw_pairs(tuned)
    assert len(sites) == 14
    for site in sites:
        owner, _, projection = site.weight.removesuffix(".weight").rpartition(".")
        linear = getattr(plain.get_submodule(owner), projection)
        pair = getattr(tuned.get_submodule(owner), projection).parametrizations.weight[0]
        setattr(plain.get_submodule(owner), projection, Branch(linear, [(list(range(linear.out_features)), pair)]))
    embeddings = {"image_embeddings": randn(0, 1, 32, 4, 4)}
    prompt = {"points": (randn(1, 3, 2, 2) * 20 + 32, torch.tensor([[1, 0]] * 3))}
    with torch.inference_mode():
        assert relative_error(tuned.decode(embeddings, **prompt)[0], plain.decode(embeddings, **prompt)[0]) <= 1e-12


def test_rows_of_both_layouts() -> None:
    weight = torch.arange(12.0)[:, None].expand(12, 5).contiguous()
    assert LoraSite("w", "q").rows(weight)[..., 0].tolist() == [[0, 1, 2, 3]]
    assert LoraSite("w", "v").rows(weight)[..., 0].tolist() == [[8, 9, 10, 11]]
    assert LoraSite("w", "q", 2).rows(weight)[..., 0].tolist() == [[0, 1], [6, 7]]
    assert LoraSite("w", "k", 2).rows(weight)[..., 0].tolist() == [[2, 3], [8, 9]]
    assert LoraSite("w", "v", 2).rows(weight)[..., 0].tolist() == [[4, 5], [10, 11]]
    assert LoraSite("w").rows(weight[..., None, None]).shape == (1, 12, 5)


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 1e-5), (torch.float64, 1e-12)])
@pytest.mark.parametrize("shape", [(24, 10), (24, 10, 1, 1)])
def test_a_product_is_added_as_the_formula_says(relative_error, dtype, bound, shape) -> None:
    weight, a, b = randn(0, *shape), randn(1, 4, 10), randn(2, 24, 4)
    expected = weight.clone()
    for row in range(24):
        for column in range(10):
            expected[row, column] += 0.5 * sum(b[row, r] * a[r, column] for r in range(4))
    given = weight.to(dtype)
    got = add_product(given, LoraSite("w"), a.to(dtype), b.to(dtype), 0.5)
    assert relative_error(got, expected.to(dtype)) <= bound
    assert torch.equal(given, weight.to(dtype))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_weights_of_sixteen_bits_are_rounded_once(dtype) -> None:
    weight, a, b = (randn(n, *shape).to(dtype) for n, shape in enumerate([(24, 10), (4, 10), (8, 4)]))
    expected = weight.clone()
    expected[16:] = (weight[16:].float() + b.float() @ a.float()).to(dtype)
    assert torch.equal(add_product(weight, LoraSite("w", "v"), a, b), expected)


@pytest.mark.parametrize(
    ("a", "b", "problem"),
    [
        ((4, 10), (8, 4), None),
        ((4, 11), (8, 4), r"expected (r, 10), (8, r), got (4, 11), (8, 4)"),
        ((4, 10), (24, 4), r"expected (r, 10), (8, r), got (4, 10), (24, 4)"),
        ((4, 10), (8, 3), r"expected (r, 10), (8, r), got (4, 10), (8, 3)"),
        ((40,), (8, 4), r"expected (r, 10), (8, r), got (40,), (8, 4)"),
    ],
)
def test_pairs_that_do_not_fit_are_told(a, b, problem) -> None:
    assert LoraSite("w", "k", 2).problem(torch.zeros(24, 10), torch.zeros(a), torch.zeros(b)) == problem


def test_a_new_pair_changes_nothing_and_is_drawn_as_published(small_config, randomise) -> None:
    model, image = build_sam(small_config).eval(), torch.rand(1, 3, 64, 64)
    randomise(model, 3)
    before = model(image, boxes=torch.tensor([[5.0, 9, 40, 50]]))[0]
    torch.manual_seed(0)
    tune(model, Tuning(LoraConfig(rank=64, encoder="qv", decoder="linear")))
    assert torch.equal(model(image, boxes=torch.tensor([[5.0, 9, 40, 50]]))[0], before)
    for pair in (one for one in model.modules() if isinstance(one, LowRank)):
        # Kaiming's uniform distribution with a = sqrt(5) is that of torch's own linear layers.
        bound = 1 / math.sqrt(pair.a.shape[1])
        assert 0.98 * bound < pair.a.abs().max() <= bound
        assert pair.a.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.1)
        assert not pair.b.any()


@pytest.mark.parametrize(
    ("config", "lora", "whole"),
    [
        (VIT, LoraConfig(decoder="qv"), HEAD),
        (VIT, LoraConfig(), WHOLE),
        (STUDENT, LoraConfig(encoder="linear", decoder="linear"), ()),
    ],
)
def test_gradients_reach_the_pairs_and_what_is_trained_whole_alone(config, lora, whole) -> None:
    torch.manual_seed(4)
    model, tuning = build_sam(config), Tuning(lora, whole)
    tune(model, tuning)
    draw_pairs(model)
    masks, scores = model(
        torch.rand(1, 3, 64, 64),
        points=(torch.tensor([[[9.0, 20], [40, 40]]]), torch.tensor([[1, 0]])),
        boxes=torch.tensor([[5.0, 9, 40, 50]]),
        multimask_output=True,
    )
    single = model(torch.rand(1, 3, 64, 64), masks=torch.rand(1, 1, *masks.shape[2:]))
    (masks.square().mean() + scores.square().mean() + single[0].square().mean() + single[1].square().mean()).backward()
    for name, parameter in model.named_parameters():
        trained = name.endswith((".a", ".b")) or tuning.is_whole(name)
        assert parameter.requires_grad == trained, name
        if name.endswith(("weight.0.a", "weight.0.b", "weight.1.a", "weight.1.b")):
            assert parameter.grad is not None, name
            assert parameter.grad.any(), name
        if not trained:
            assert parameter.grad is None, name


def test_under_autocast_the_sum_keeps_its_precision() -> None:
    torch.manual_seed(5)
    model = build_sam(VIT)
    tune(model, Tuning())
    draw_pairs(model)
    layer = model.image_encoder.blocks[0].attn.qkv
    expected = layer.weight
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(layer.weight, expected)


def test_trainable_counts_are_the_published_ones() -> None:
    samed = SamConfig(vit_config("b", 512), DecoderConfig(num_multimask_outputs=8))
    assert trainable_parameters(samed, Tuning()) == 147_456
    assert trainable_parameters(samed, Tuning(LoraConfig(encoder="none", decoder="qv"))) == 23_552
    assert trainable_parameters(samed, Tuning(whole=WHOLE)) == 4_913_621
    assert trainable_parameters(samed, Tuning(LoraConfig(decoder="qv"), HEAD)) == 1_645_909
    assert trainable_parameters(samed, Tuning(LoraConfig(rank=16))) == 589_824
    assert trainable_parameters(sam_vit_config("l"), Tuning()) == 393_216
    huge = replace(samed, encoder=vit_config("h", 512))
    assert trainable_parameters(huge, Tuning(whole=WHOLE)) == 5_421_525
    adapters = Tuning(LoraConfig(encoder="none"), (*WHOLE, "image_encoder.blocks.*.Adapter.*"))
    assert trainable_parameters(sam_med2d_config(), adapters) == 184_569_136


def test_sites_have_the_published_order_and_names(small_config) -> None:
    names = [site.name for site in lora_sites(build_sam(VIT), LoraConfig(decoder="qv"))]
    assert names[:3] == [
        "image_encoder.blocks.0.attn.qkv.weight[q]",
        "image_encoder.blocks.0.attn.qkv.weight[v]",
        "image_encoder.blocks.1.attn.qkv.weight[q]",
    ]
    assert names[-1] == "mask_decoder.transformer.final_attn_token_to_image.v_proj.weight"
    assert {site.groups for site in lora_sites(build_sam(small_config), LoraConfig())} == {2, 4}


def test_linear_targets_are_linear_layers_and_narrow_convolutions() -> None:
    sites = lora_sites(build_sam(STUDENT), LoraConfig(encoder="linear"))
    assert [site.name.removeprefix("image_encoder.") for site in sites] == [
        "high_res.weight",
        "lateral.0.weight",
        "lateral.1.weight",
        "lateral.2.weight",
        "out.weight",
    ]
    assert trainable_parameters(student_config(), Tuning(LoraConfig(encoder="none", decoder="qv"))) == 11_776
    with_adapters = build_sam(replace(VIT, encoder=replace(VIT.encoder, adapters="code")))
    without = lora_sites(build_sam(VIT), LoraConfig(encoder="linear"))
    assert lora_sites(with_adapters, LoraConfig(encoder="linear")) == without
    assert retained_adapters(with_adapters) == [f"image_encoder.blocks.{block}.Adapter" for block in (0, 1)]
    assert {site.weight.rpartition(".")[0].rpartition(".")[2] for site in without} == {
        "qkv",
        "proj",
        "lin1",
        "lin2",
        "0",
    }


def test_what_makes_no_sense_is_refused() -> None:
    with pytest.raises(ValueError, match="no attention, so expected the targets linear or none, got 'qv'"):
        lora_sites(build_sam(STUDENT), LoraConfig())
    with pytest.raises(ValueError, match=r"not both: mask_decoder\.transformer\.final_attn_.*\.q_proj\.weight"):
        tune(build_sam(VIT), Tuning(LoraConfig(decoder="qv"), WHOLE))
    with pytest.raises(ValueError, match=r"the model has nothing of the name mask_decoder\.head\.\*"):
        tune(build_sam(VIT), Tuning(whole=("mask_decoder.head.*",)))
    model = build_sam(VIT)
    tune(model, Tuning())
    with pytest.raises(LoraError, match="has low-rank weights already"):
        tune(model, Tuning())


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ({"rank": 0}, "rank: expected a whole number of at least 1, got 0"),
        ({"rank": True}, "rank: expected a whole number of at least 1, got True"),
        ({"alpha": 0}, "alpha: expected None or a number above 0, got 0"),
        ({"alpha": math.nan}, "alpha: expected None or a number above 0, got nan"),
        ({"encoder": "q"}, "encoder: expected targets out of none, qv, qkv, linear, got 'q'"),
        ({"decoder": None}, "decoder: expected targets out of none, qv, qkv, linear, got None"),
    ],
)
def test_configurations_are_checked(values, problem) -> None:
    with pytest.raises(ValueError, match=problem):
        LoraConfig(**values)


def test_a_tuning_goes_through_json() -> None:
    tuning = Tuning(LoraConfig(rank=8, alpha=16.0, encoder="linear", decoder="qkv"), HEAD)
    assert tuning.lora.scale == 2.0
    assert Tuning.from_dict(tuning.to_dict()) == tuning
    assert Tuning.from_dict(Tuning().to_dict()).lora.scale == 1.0
    with pytest.raises(ValueError, match=r"lora: missing fields \['whole'\], unknown fields \['dropout'\]"):
        Tuning.from_dict({"rank": 4, "alpha": None, "targets": {"encoder": "qv", "decoder": "none"}, "dropout": 0.1})
    with pytest.raises(ValueError, match="whole: expected a list of patterns, got 'mask_decoder"):
        Tuning.from_dict({**tuning.to_dict(), "whole": "mask_decoder.*"})
