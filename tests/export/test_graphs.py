from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from samsdk_export.graphs import DecoderGraph, EncoderGraph
from samsdk_export.rows_decoder import RowsDecoder
from samsdk_training.checkpoints import Checkpoint
from samsdk_training.models.sam import Sam


@pytest.fixture(scope="module")
def model(tiny_checkpoint: Checkpoint) -> Sam:
    return tiny_checkpoint.build()


@pytest.fixture(scope="module")
def image() -> Tensor:
    return torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(1))


def close(got: Tensor, expected: Tensor) -> None:
    assert got.shape == expected.shape
    assert ((got - expected).abs().max() / expected.abs().max()).item() <= 1e-5


Decode = Callable[..., tuple[Tensor, Tensor]]


@pytest.fixture(scope="module", params=["as trained", "rows", "rows, projected ahead"])
def decode(request: pytest.FixtureRequest, model: Sam) -> Decode:
    """Encoder and decoder graph, as trained and as exported."""
    ahead = request.param.endswith("ahead")
    encoder = EncoderGraph(model, ahead).eval()
    decoder = (DecoderGraph(model) if request.param == "as trained" else RowsDecoder(model, ahead=ahead)).eval()

    def run(image: Tensor, *feeds: Tensor) -> tuple[Tensor, Tensor]:
        with torch.inference_mode():
            outputs = encoder(image)
            embedding, *others = (outputs,) if isinstance(outputs, Tensor) else outputs
            return decoder(embedding, *feeds, *others)

    return run


def whole(model: Sam, image: Tensor, **prompts: object) -> tuple[Tensor, Tensor]:
    """The model's own forward, the single mask and then those for ambiguous prompts."""
    with torch.inference_mode():
        one, three = (model(image, **prompts, multimask_output=multimask) for multimask in (False, True))
    return torch.cat([one[0], three[0]], dim=1), torch.cat([one[1], three[1]], dim=1)


def no_mask(prompts: int) -> tuple[Tensor, Tensor]:
    # Noise instead of zeros: without `has_mask_input` the mask must not matter.
    return torch.randn(prompts, 1, 64, 64), torch.zeros(prompts)


def test_the_encoder_graph_is_the_image_encoder(model: Sam, image: Tensor) -> None:
    with torch.inference_mode():
        close(EncoderGraph(model, ahead=False).eval()(image), model.image_encoder(image))
        close(EncoderGraph(model, ahead=True).eval()(image)[0], model.image_encoder(image))


@pytest.mark.parametrize("prompts", [1, 2, 4])
@pytest.mark.parametrize("points", [1, 2, 5])
def test_points_with_a_padding_point(model: Sam, image: Tensor, decode: Decode, prompts: int, points: int) -> None:
    generator = torch.Generator().manual_seed(10 * prompts + points)
    coords = torch.rand(prompts, points, 2, generator=generator) * 63
    labels = torch.randint(0, 2, (prompts, points), generator=generator).float()
    expected = whole(model, image, points=(coords, labels))
    # The model appends the padding point itself; the runtime sends it, at any place: its coordinates do not matter.
    padded = torch.cat([coords, torch.full((prompts, 1, 2), 17.0)], dim=1)
    labelled = torch.cat([labels, -torch.ones(prompts, 1)], dim=1)
    for got, wanted in zip(decode(image, padded, labelled, *no_mask(prompts)), expected, strict=True):
        close(got, wanted)


@pytest.mark.parametrize("prompts", [1, 3])
@pytest.mark.parametrize("points", [0, 1, 3])
def test_boxes_with_and_without_points(model: Sam, image: Tensor, decode: Decode, prompts: int, points: int) -> None:
    generator = torch.Generator().manual_seed(100 * prompts + points)
    boxes = torch.rand(prompts, 4, generator=generator) * 63
    coords = torch.rand(prompts, points, 2, generator=generator) * 63
    labels = torch.randint(-1, 2, (prompts, points), generator=generator).float()
    given = {"points": (coords, labels)} if points else {}
    expected = whole(model, image, boxes=boxes, **given)
    tokens = torch.cat([coords, boxes.reshape(prompts, 2, 2)], dim=1)
    kinds = torch.cat([labels, torch.tensor([[2.0, 3.0]]).repeat(prompts, 1)], dim=1)
    for got, wanted in zip(decode(image, tokens, kinds, *no_mask(prompts)), expected, strict=True):
        close(got, wanted)


def test_a_mask_alone_has_no_token(model: Sam, image: Tensor, decode: Decode) -> None:
    masks = torch.randn(2, 1, 64, 64, generator=torch.Generator().manual_seed(8)) * 5
    expected = whole(model, image, masks=masks)
    got = decode(image, torch.zeros(2, 0, 2), torch.zeros(2, 0), masks, torch.ones(2))
    for mine, theirs in zip(got, expected, strict=True):
        close(mine, theirs)


def test_prompts_with_and_without_a_mask_in_one_call(model: Sam, image: Tensor, decode: Decode) -> None:
    generator = torch.Generator().manual_seed(5)
    boxes = torch.rand(4, 4, generator=generator) * 63
    masks = torch.randn(4, 1, 64, 64, generator=generator) * 5
    has_mask = torch.tensor([1.0, 0.0, 0.0, 1.0])
    tokens, kinds = boxes.reshape(4, 2, 2), torch.tensor([[2.0, 3.0]]).repeat(4, 1)
    logits, scores = decode(image, tokens, kinds, masks, has_mask)
    for index in range(4):
        mask = {"masks": masks[index : index + 1]} if has_mask[index] else {}
        expected = whole(model, image, boxes=boxes[index : index + 1], **mask)
        close(logits[index : index + 1], expected[0])
        close(scores[index : index + 1], expected[1])
    # A mask that is said to be there changes the answer.
    other, _ = decode(image, tokens, kinds, masks, torch.zeros(4))
    assert (other[0] - logits[0]).abs().max() > 1e-3
    close(other[1:3], logits[1:3])


def test_a_padding_point_is_not_nothing(model: Sam, image: Tensor, decode: Decode) -> None:
    """Why the runtime groups prompts by their number of tokens instead of padding them to a common one."""
    tokens, kinds = torch.tensor([[[5.0, 5.0], [40.0, 50.0]]]), torch.tensor([[2.0, 3.0]])
    plain, _ = decode(image, tokens, kinds, *no_mask(1))
    padded, _ = decode(image, torch.cat([tokens, tokens[:, :1]], 1), torch.tensor([[2.0, 3.0, -1.0]]), *no_mask(1))
    assert (plain - padded).abs().max() > 1e-3
