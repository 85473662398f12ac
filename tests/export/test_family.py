"""Small models of the published architectures: imported, exported, proved, and run as torch runs them."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

import samsdk
from samsdk.golden import measure_parity
from samsdk_export import bundle_writer, tier_writer
from samsdk_export.bundle_writer import write_bundle
from samsdk_training.checkpoints import Checkpoint
from samsdk_training.importers import import_weights
from samsdk_training.importers.published import LORAS, PUBLISHED
from samsdk_training.models import SamConfig, TinyViTConfig, VitConfig, build_sam
from samsdk_training.models.sam_config import DecoderConfig
from samsdk_training.torch_predictor import TorchPredictor

SIDE, CLASSES, RANK = 64, 3, 2
# One block, which is traced in half the time of SAM's two; those are traced in other tests.
DECODER = DecoderConfig(depth=1, num_heads=2, mlp_dim=32, iou_head_hidden_dim=16)
VIT = SamConfig(
    VitConfig(image_size=SIDE, embed_dim=16, depth=2, num_heads=2, global_blocks=(1,), window_size=3, out_channels=16),
    DECODER,
    mask_channels=8,
)
MOBILE = SamConfig(
    TinyViTConfig(SIDE, (8, 16, 16, 32), (1, 1, 1, 1), (1, 2, 2, 4), out_channels=16, stem_stride=4), DECODER, 8
)
CONFIGS = {
    "sam-vit-b": VIT,
    "medsam-vit-b": VIT,
    "mobile-sam": MOBILE,
    "sam-med2d": replace(VIT, encoder=replace(VIT.encoder, adapters="code")),
}
KINDS = (*CONFIGS, "samed")
BOX = {"box": (140, 90, 330, 280)}
POINTS = {"points": [(200, 180), (60, 300)], "labels": [1, 0]}
PROMPTS: dict[str, tuple[dict[str, Any], ...]] = {
    "sam-vit-b": (BOX, POINTS),
    "medsam-vit-b": (BOX,),
    "mobile-sam": (BOX, POINTS),
    "sam-med2d": (BOX, POINTS),
    "samed": ({},),
}
Member = tuple[Checkpoint, Path]


def draw(config: SamConfig) -> dict[str, Tensor]:
    torch.manual_seed(4)
    state = build_sam(config).state_dict()
    return {
        key: tensor + 0.1 * torch.randn(tensor.shape) if tensor.is_floating_point() else tensor
        for key, tensor in state.items()
    }


def samed_file() -> dict[str, Tensor]:
    """Pairs for q and v of each block, and a prompt encoder and a decoder of its own."""
    torch.manual_seed(6)
    width = VIT.encoder.embed_dim
    pairs = {}
    for number in range(2 * VIT.encoder.depth):
        pairs[f"w_a_{number:03d}"] = torch.randn(RANK, width) * 0.3
        pairs[f"w_b_{number:03d}"] = torch.randn(width, RANK) * 0.3
    state = draw(replace(VIT, decoder=replace(DECODER, num_multimask_outputs=CLASSES)))
    return pairs | {key: tensor for key, tensor in state.items() if not key.startswith("image_encoder.")}


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Member]:
    folder = tmp_path_factory.mktemp("family")
    members: dict[str, Member] = {}
    with pytest.MonkeyPatch.context() as patch:
        for kind, config in CONFIGS.items():
            published = PUBLISHED[kind]
            small = replace(published, config=config, preprocessing=replace(published.preprocessing, input_size=SIDE))
            patch.setitem(PUBLISHED, kind, small)
        patch.setitem(LORAS, "samed", replace(LORAS["samed"], image_size=SIDE))
        # Each proof takes a process; that the other backends hold is the business of their own tests.
        patch.setattr(tier_writer, "certified_devices", lambda: ["cpu"])
        for kind in KINDS:
            torch.save(samed_file() if kind == "samed" else draw(CONFIGS[kind]), folder / f"{kind}.pth")
            base = folder / "sam-vit-b.pth" if kind == "samed" else None
            checkpoint = import_weights(folder / f"{kind}.pth", kind, base=base)
            with pytest.MonkeyPatch.context() as graphs:
                if kind == "medsam-vit-b":
                    # Of the same shape and drawn from the same seed: its graphs are the same.
                    _take_graphs(graphs, members["sam-vit-b"][1])
                members[kind] = (checkpoint, write_bundle(checkpoint, folder / kind, name=kind))
    return members


def _take_graphs(patch: pytest.MonkeyPatch, bundle: Path) -> None:
    for part in ("encoder", "decoder"):
        content = (bundle / f"{part}.onnx").read_bytes()
        patch.setattr(bundle_writer, f"export_{part}", lambda model, rewrites, content=content: content)


@pytest.mark.parametrize("kind", KINDS)
def test_a_bundle_answers_as_its_checkpoint_does(
    family: dict[str, Member], tissue: NDArray[np.uint8], kind: str
) -> None:
    checkpoint, bundle = family[kind]
    reference = TorchPredictor.of(checkpoint, checkpoint.build())
    # Tall, so that square and padded geometries differ, and larger than the input.
    image = tissue[:, :400]
    for prompt in PROMPTS[kind]:
        mine = samsdk.segment(image, model=bundle, device="cpu", **prompt)
        theirs = reference.decode(reference.encode(image), **prompt)
        spread = float(theirs.low_res_logits.std())
        assert spread > 1e-3
        np.testing.assert_allclose(mine.low_res_logits, theirs.low_res_logits, rtol=0, atol=1e-3 * spread)
        np.testing.assert_allclose(mine.scores, theirs.scores, atol=1e-4)
        assert mine.masks.shape == theirs.masks.shape == (CLASSES if kind == "samed" else 1, 512, 400)
        assert np.count_nonzero(mine.masks != theirs.masks) <= 40


@pytest.mark.parametrize("kind", KINDS)
def test_a_bundle_passes_its_own_examination(family: dict[str, Member], kind: str) -> None:
    predictor = samsdk.load(family[kind][1], device="cpu")
    parity = measure_parity(predictor)
    assert parity.passed
    assert parity.max_logit_difference < 1e-4
    assert predictor.manifest.task == ("semantic" if kind == "samed" else "promptable")
    certificate = predictor.manifest.parity["exact"]["onnxruntime-cpu"]
    assert certificate["max_logit_difference"] == pytest.approx(parity.max_logit_difference, abs=1e-6)


def test_medsam_says_that_it_was_not_trained_with_points(family: dict[str, Member], tissue: NDArray[np.uint8]) -> None:
    with pytest.warns(UserWarning, match="was trained with box prompts only, got points: expect a poor mask"):
        samsdk.segment(tissue, model=family["medsam-vit-b"][1], device="cpu", **POINTS)


def test_sam_med2d_answers_with_the_best_of_its_masks(family: dict[str, Member], tissue: NDArray[np.uint8]) -> None:
    predictor = samsdk.load(family["sam-med2d"][1], device="cpu")
    embedding = predictor.encode(tissue)
    single, offered = (predictor.decode(embedding, **BOX, multimask=multimask) for multimask in (False, True))
    assert len(set(offered.scores.tolist())) == 3
    np.testing.assert_array_equal(single.low_res_logits[0], offered.low_res_logits[offered.best])


def test_samed_names_its_classes(family: dict[str, Member], tissue: NDArray[np.uint8]) -> None:
    result = samsdk.segment(tissue, model=family["samed"][1], device="cpu")
    assert isinstance(result, samsdk.SemanticResult)
    assert result.labels == {"1": "class 1", "2": "class 2", "3": "class 3"}
    np.testing.assert_array_equal(result.masks.sum(axis=0), result.label_map > 0)
    with pytest.raises(samsdk.PromptError, match="this bundle takes no prompt, got box"):
        samsdk.segment(tissue, model=family["samed"][1], device="cpu", **BOX)
