import numpy as np
import pytest
import torch

from samsdk.golden import golden_prompt
from samsdk.prompts import PROMPT_KINDS, DecoderInputs, encode_prompt
from samsdk_export.goldens import golden_answers, golden_images, torch_answer
from samsdk_training.checkpoints import Checkpoint
from samsdk_training.models.sam import Sam


@pytest.fixture(scope="module")
def model(tiny_checkpoint: Checkpoint) -> Sam:
    return tiny_checkpoint.build()


def test_the_golden_images_are_upright_square_and_lying() -> None:
    images = golden_images()
    assert [(image.shape, image.dtype) for image in images] == [
        ((320, 267), np.uint8),
        ((320, 320, 3), np.uint8),
        ((192, 320, 3), np.uint8),
    ]
    # Real images, not constants.
    assert all(image.std() > 10 for image in images)


def test_the_golden_prompts_cover_every_kind_and_lie_in_their_images(model: Sam, tiny_checkpoint: Checkpoint) -> None:
    images = golden_images()
    preprocessing = tiny_checkpoint.preprocessing
    embeddings, cases = golden_answers(model, preprocessing, images)
    assert [{name: tensor.shape for name, tensor in one.items()} for one in embeddings] == [
        {"image_embeddings": (1, 32, 16, 16)}
    ] * 3
    for image, one in zip(images, embeddings, strict=True):
        with torch.inference_mode():
            expected = model.encode(torch.from_numpy(preprocessing.apply_image(image)[0]))["image_embeddings"]
        np.testing.assert_array_equal(one["image_embeddings"], expected.numpy())
    prompts = [golden_prompt(case, cases) for case in cases]
    kinds = {prompt.kinds for prompt in prompts}
    assert kinds == {("box",), ("points",), ("mask",), ("points", "box"), ("points", "mask")}
    assert {label for prompt in prompts for label in (prompt.labels or [])} == {0, 1}
    for case, prompt in zip(cases, prompts, strict=True):
        # Raises when a prompt does not fit its image.
        frame = preprocessing.frame(images[case.image].shape[:2])
        encode_prompt(prompt, frame, preprocessing, 64, PROMPT_KINDS)
        assert case.low_res_masks.shape == (4, 64, 64)
        assert case.low_res_masks.dtype == case.iou_predictions.dtype == np.float32
        assert case.iou_predictions.shape == (4,)
        assert np.isfinite(case.low_res_masks).all()
    assert {case.image for case in cases} == {0, 1, 2}


def test_the_torch_answer_is_the_models_own_forward(model: Sam) -> None:
    image = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(2))
    mask = np.random.default_rng(1).normal(size=(64, 64)).astype(np.float32)
    coords = np.array([[10, 20], [30, 40], [5, 6], [50, 60]], np.float32)
    box, points = torch.tensor([[5.0, 6.0, 50.0, 60.0]]), (torch.tensor(coords[None, :2]), torch.tensor([[1.0, 0.0]]))
    nothing = np.zeros((64, 64), np.float32)
    asked = [
        (DecoderInputs(coords, np.array([1, 0, 2, 3], np.float32), mask, 1.0), (points, box, mask)),
        (DecoderInputs(coords[2:], np.array([2, 3], np.float32), nothing, 0.0), (None, box, None)),
        (DecoderInputs(coords[:3], np.array([1, 0, -1], np.float32), nothing, 0.0), (points, None, None)),
    ]
    with torch.inference_mode():
        for feeds, (given_points, given_box, given_mask) in asked:
            logits, scores = torch_answer(model, model.encode(image), feeds)
            masks = None if given_mask is None else torch.from_numpy(given_mask)[None, None]
            for part, multimask in ((slice(0, 1), False), (slice(1, None), True)):
                expected = model(image, points=given_points, boxes=given_box, masks=masks, multimask_output=multimask)
                np.testing.assert_allclose(logits[part], expected[0][0].numpy(), atol=1e-5)
                np.testing.assert_allclose(scores[part], expected[1][0].numpy(), atol=1e-5)
