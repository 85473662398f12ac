import pytest
import torch
from torch import Tensor

from samsdk_export.graphs import embedding_shapes
from samsdk_export.semantic_decoder import SemanticDecoder
from samsdk_training.checkpoints import Checkpoint
from samsdk_training.models.sam import Sam


@pytest.fixture(scope="module", params=["tiny_checkpoint", "semantic_checkpoint"])
def model(request: pytest.FixtureRequest) -> Sam:
    """Without and with features of high resolution."""
    checkpoint: Checkpoint = request.getfixturevalue(request.param)
    return checkpoint.build()


@pytest.mark.parametrize("count", [1, 3])
def test_the_exported_decoder_computes_what_the_model_does(model: Sam, count: int) -> None:
    side = model.image_size
    images = torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(count))
    with torch.inference_mode():
        embeddings = model.encode(images)
        expected, _ = model.decode_all(embeddings)
        got = SemanticDecoder(model).eval()(*(embeddings[name] for name in embedding_shapes(model, ahead=False)))
        assert difference(got, expected) <= 1e-5
        # One image after the other, as the published code has it.
        for index in range(count):
            one = {name: tensor[index : index + 1] for name, tensor in embeddings.items()}
            assert difference(model.decode_all(one)[0], expected[index : index + 1]) <= 1e-5


def test_all_masks_are_the_single_one_and_those_for_ambiguous_prompts(model: Sam) -> None:
    image = torch.rand(1, 3, model.image_size, model.image_size, generator=torch.Generator().manual_seed(0))
    prompts = {"boxes": torch.tensor([[3.0, 4.0, 30.0, 40.0], [9.0, 9.0, 50.0, 22.0]])}
    with torch.inference_mode():
        embeddings = model.encode(image)
        for given in (prompts, {}):
            logits, scores = model.decode_all(embeddings, **given)
            parts = [model.decode(embeddings, **given, multimask_output=multimask) for multimask in (False, True)]
            assert difference(logits, torch.cat([part[0] for part in parts], dim=1)) <= 1e-5
            assert difference(scores, torch.cat([part[1] for part in parts], dim=1)) <= 1e-5


def difference(got: Tensor, expected: Tensor) -> float:
    assert got.shape == expected.shape
    return ((got - expected).abs().max() / expected.abs().max()).item()


def test_the_model_is_left_as_it_is(model: Sam) -> None:
    keys = list(model.state_dict())
    SemanticDecoder(model)
    assert list(model.state_dict()) == keys
