import pytest
import torch
from torch.nn import functional

from samsdk_training.models import SamConfig, StudentEncoderConfig, build_sam, student_config
from samsdk_training.models.sam_config import DecoderConfig
from samsdk_training.models.student import ResidualBlock, _double, fold_batch_norms


@pytest.fixture
def tiny() -> SamConfig:
    encoder = StudentEncoderConfig(64, stem_channels=8, widths=(8, 16, 16, 24), depths=(1, 1, 1, 1), out_channels=32)
    return SamConfig(encoder, DecoderConfig(num_heads=2, mlp_dim=64, iou_head_hidden_dim=32))


def test_the_student_s_size_is_known() -> None:
    with torch.device("meta"):
        model = build_sam(student_config())
    counts = {name: sum(p.numel() for p in part.parameters()) for name, part in model.named_children()}
    assert counts == {"image_encoder": 2_546_096, "prompt_encoder": 3_276, "mask_decoder": 756_340}
    assert (model.image_size, model.embedding_side, model.prompt_encoder.mask_side) == (256, 32, 128)


def test_a_student_s_configuration_survives_json(tiny: SamConfig) -> None:
    for config in (tiny, student_config()):
        assert SamConfig.from_dict(config.to_dict()) == config
    assert tiny.to_dict()["encoder"]["architecture"] == "student"
    wrong = tiny.to_dict()
    wrong["encoder"]["architecture"] = "resnet"
    with pytest.raises(ValueError, match="expected an architecture out of tiny_vit, student, vit, got 'resnet'"):
        SamConfig.from_dict(wrong)


def test_doubling_is_nearest_interpolation() -> None:
    x = torch.randn(3, 5, 4, 4, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(_double(x), functional.interpolate(x, scale_factor=2.0, mode="nearest"), rtol=0, atol=0)


def test_a_new_block_is_the_identity_after_a_relu() -> None:
    x = torch.randn(2, 6, 8, 8, generator=torch.Generator().manual_seed(0)).relu()
    torch.testing.assert_close(ResidualBlock(6, batch_norm=True)(x), x, rtol=0, atol=0)


def test_embeddings_have_the_shapes_that_are_declared(tiny: SamConfig) -> None:
    model = build_sam(tiny).eval()
    embeddings = model.encode(torch.rand(3, 3, 64, 64))
    assert {name: tuple(x.shape[1:]) for name, x in embeddings.items()} == model.image_encoder.embedding_shapes
    assert model.image_encoder.embedding_shapes == {"image_embeddings": (32, 8, 8), "high_res_features": (8, 16, 16)}
    with pytest.raises(ValueError, match=r"images of side 64, got \(64, 96\)"):
        model.image_encoder(torch.rand(1, 3, 64, 96))


def test_each_image_of_a_batch_is_encoded_by_itself(tiny: SamConfig) -> None:
    torch.manual_seed(0)
    model = build_sam(tiny).eval()
    images = torch.rand(3, 3, 64, 64)
    together = model.encode(images)
    for index in range(3):
        for name, alone in model.encode(images[index : index + 1]).items():
            torch.testing.assert_close(together[name][index : index + 1], alone, rtol=1e-5, atol=1e-6)


def test_the_skip_is_added_where_the_mask_is_upsampled(tiny: SamConfig) -> None:
    torch.manual_seed(0)
    model = build_sam(tiny).eval()
    embeddings = model.encode(torch.rand(1, 3, 64, 64))
    box = torch.tensor([[10.0, 10.0, 40.0, 50.0]])
    logits, scores = model.decode(embeddings, boxes=box)
    without = {"image_embeddings": embeddings["image_embeddings"]}
    zero = {**embeddings, "high_res_features": torch.zeros_like(embeddings["high_res_features"])}
    torch.testing.assert_close(model.decode(without, boxes=box), model.decode(zero, boxes=box), rtol=0, atol=0)
    # A change of one cell of the skip changes the 2x2 logits that lie on it, and neither others nor the score.
    changed = {**embeddings, "high_res_features": embeddings["high_res_features"].clone()}
    # Large, because random weights make so little of the skip that a small one may round away.
    changed["high_res_features"][0, :, 5, 7] += 1000
    moved, same = model.decode(changed, boxes=box)
    difference = (moved - logits).abs()[0, 0]
    assert difference[10:12, 14:16].min() > 0
    difference[10:12, 14:16] = 0
    assert difference.max() == 0
    torch.testing.assert_close(same, scores, rtol=0, atol=0)


def test_gradients_reach_every_parameter(tiny: SamConfig) -> None:
    torch.manual_seed(0)
    model = build_sam(tiny)
    points = (torch.tensor([[[20.0, 30.0], [40.0, 10.0]]]), torch.tensor([[1, 0]]))
    box, mask = torch.tensor([[5.0, 5.0, 60.0, 50.0]]), torch.randn(1, 1, 32, 32)
    total = 0
    for kinds in ({"points": points}, {"points": points, "boxes": box, "masks": mask}):
        for multimask in (False, True):
            logits, scores = model(torch.rand(2, 3, 64, 64)[:1], **kinds, multimask_output=multimask)
            total = total + logits.square().mean() + scores.square().mean()
    total.backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []


def test_folded_batch_norms_compute_the_same_function(tiny: SamConfig) -> None:
    torch.manual_seed(0)
    encoder = build_sam(tiny).image_encoder.double()
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
        for _ in range(3):
            encoder.train()(torch.rand(4, 3, 64, 64, dtype=torch.float64) * 3)
        image = torch.rand(2, 3, 64, 64, dtype=torch.float64)
        with pytest.raises(ValueError, match="evaluation mode"):
            fold_batch_norms(encoder)
        folded = fold_batch_norms(encoder.eval()).double()
        for mine, theirs in zip(folded(image), encoder(image), strict=True):
            # The folded weights are kept in single precision.
            torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-5 * theirs.abs().max().item())
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in folded.modules())
    with pytest.raises(ValueError, match="expected an encoder with batch norms"):
        fold_batch_norms(folded)


def test_a_switch_of_the_configuration_must_be_true_or_false(tiny: SamConfig) -> None:
    content = tiny.to_dict()
    content["encoder"]["batch_norm"] = 1
    with pytest.raises(ValueError, match="batch_norm: expected true or false, got 1"):
        SamConfig.from_dict(content)
