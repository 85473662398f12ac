import pytest
import torch
from torch import Tensor

from samsdk_training.models import PromptEncoder

# Width, embedding side, input size, mask channels. No fewer than 16 of the last: a quarter of them pass a layer norm,
# and over two channels that is so ill-conditioned that float32 misses 1e-5 in either implementation.
SHAPES = [(256, 64, 256, 16), (256, 64, 1024, 16), (32, 16, 128, 16)]
KINDS = ["points", "box", "points+box", "mask", "points+box+mask", "nothing"]


@pytest.fixture(params=SHAPES, ids=str)
def pair(request, segment_anything, randomise):
    """The published prompt encoder with random weights, and ours with the same ones."""
    dim, side, size, channels = request.param
    torch.manual_seed(0)
    oracle = segment_anything.PromptEncoder(dim, (side, side), (size, size), channels)
    randomise(oracle, 1)
    ours = PromptEncoder(dim, side, size, channels)
    ours.load_state_dict(oracle.state_dict(), strict=True)
    oracle.load_state_dict(ours.state_dict(), strict=True)
    return oracle, ours


def prompts(kind: str, count: int, points: int, encoder: PromptEncoder, dtype: torch.dtype = torch.float32):
    generator = torch.Generator().manual_seed(10 * count + points)

    # Quarter pixels: divided by a power of two they are exact in float32 too, to which the oracle rounds.
    def pixels(*shape: int) -> Tensor:
        return torch.randint(0, 4 * encoder.input_size, shape, generator=generator).to(dtype) / 4

    labels = torch.randint(-1, 2, (count, points), generator=generator)
    given_points = (pixels(count, points, 2), labels) if "points" in kind else None
    boxes = pixels(count, 4) if "box" in kind else None
    side = encoder.mask_side
    masks = 8 * torch.randn(count, 1, side, side, generator=generator, dtype=torch.float64).to(dtype)
    return given_points, boxes, masks if "mask" in kind else None


@pytest.mark.parametrize("count", [1, 4])
@pytest.mark.parametrize("kind", KINDS)
def test_agrees_with_segment_anything(pair, kind, count, relative_error) -> None:
    oracle, ours = pair
    for points in range(1, 6):
        given = prompts(kind, count, points, ours)
        with torch.inference_mode():
            (sparse, dense), (expected_sparse, expected_dense) = ours(*given), oracle(*given)
        assert relative_error(sparse, expected_sparse) <= 1e-5
        assert relative_error(dense, expected_dense) <= 1e-5
        if "points" not in kind:
            break


@pytest.mark.parametrize("kind", KINDS)
def test_agrees_with_segment_anything_in_double_precision(pair, kind, relative_error, monkeypatch) -> None:
    oracle, ours = (module.double() for module in pair)
    # The published class casts coordinates to float32 (exact here, see `pixels`); take them back up for its product.
    encode = oracle.pe_layer._pe_encoding
    monkeypatch.setattr(oracle.pe_layer, "_pe_encoding", lambda coords: encode(coords.double()))
    given = prompts(kind, 4, 5, ours, torch.float64)
    with torch.inference_mode():
        (sparse, dense), (expected_sparse, expected_dense) = ours(*given), oracle(*given)
        positions, expected_positions = ours.get_dense_pe(), oracle.get_dense_pe()
    assert relative_error(sparse, expected_sparse.double()) <= 1e-12
    assert relative_error(dense, expected_dense) <= 1e-12
    assert relative_error(positions, expected_positions) <= 1e-12


def test_dense_positions_agree_with_segment_anything(pair, relative_error) -> None:
    oracle, ours = pair
    assert relative_error(ours.get_dense_pe(), oracle.get_dense_pe()) <= 1e-5


def test_dense_positions_are_those_of_points_at_the_cells_centres(pair, relative_error) -> None:
    _, ours = (module.double() for module in pair)
    cell = ours.input_size / ours.embedding_side
    row, column = 3, 11
    # A point's coordinate is that of its pixel, whose centre lies half a pixel further.
    centre = torch.tensor([[[(column + 0.5) * cell - 0.5, (row + 0.5) * cell - 0.5]]], dtype=torch.float64)
    point = ours.embed_points(centre, torch.tensor([[1]])) - ours.point_embeddings[1].weight
    assert relative_error(point[0, 0], ours.get_dense_pe()[0, :, row, column]) <= 1e-12


def test_a_box_is_two_points_with_corner_labels(pair) -> None:
    _, ours = pair
    boxes = torch.tensor([[3.0, 5.0, 40.0, 60.0], [0.0, 1.0, 20.0, 30.0]])
    as_points = ours.embed_points(boxes.reshape(2, 2, 2), torch.tensor([[2, 3], [2, 3]]))
    assert torch.equal(ours.embed_boxes(boxes), as_points)
    first, second = as_points[0] - ours.pe_layer.encode((boxes[0].reshape(2, 2) + 0.5) / ours.input_size)
    torch.testing.assert_close(first, ours.point_embeddings[2].weight[0], atol=1e-5, rtol=0)
    torch.testing.assert_close(second, ours.point_embeddings[3].weight[0], atol=1e-5, rtol=0)


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.float32])
def test_labels_of_any_dtype_mean_the_same(pair, dtype) -> None:
    _, ours = pair
    coords = torch.tensor([[[1.0, 2.0], [30.0, 4.0], [5.0, 60.0], [7.0, 8.0], [9.0, 10.0]]])
    labels = torch.tensor([[1, 0, -1, 2, 3]])
    assert torch.equal(ours.embed_points(coords, labels.to(dtype)), ours.embed_points(coords, labels))


def test_where_a_padding_point_lies_does_not_matter(pair) -> None:
    _, ours = pair
    labels = torch.tensor([[-1]])
    here, there = (ours.embed_points(torch.full((1, 1, 2), x), labels) for x in (0.0, 77.0))
    assert torch.equal(here, there)
    assert torch.equal(here[0, 0], ours.not_a_point_embed.weight[0])


def test_prompts_are_not_changed_in_place(pair) -> None:
    _, ours = pair
    coords, labels, boxes = torch.ones(1, 2, 2), torch.tensor([[1, -1]]), torch.ones(1, 4)
    ours((coords, labels), boxes, None)
    assert torch.equal(coords, torch.ones(1, 2, 2))
    assert torch.equal(labels, torch.tensor([[1, -1]]))
    assert torch.equal(boxes, torch.ones(1, 4))
