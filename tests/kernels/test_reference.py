import pytest
import torch
from torch.nn import functional

from samsdk_kernels.reference import attention, relative_position_bias


def draw(*shape: int, seed: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-14), (torch.float32, 2e-6)])
@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize(("n", "m", "d", "e"), [(7, 7, 32, 32), (5, 64, 16, 16), (64, 5, 16, 24), (1, 1, 8, 8)])
def test_agrees_with_torch(
    n: int, m: int, d: int, e: int, with_bias: bool, dtype: torch.dtype, tolerance: float
) -> None:
    q, k, v = (draw(2, 3, *s, seed=i, dtype=dtype) for i, s in enumerate([(n, d), (m, d), (m, e)]))
    bias = draw(3, n, m, seed=4, dtype=dtype) if with_bias else None
    expected = functional.scaled_dot_product_attention(q, k, v, attn_mask=bias, scale=0.37)
    torch.testing.assert_close(attention(q, k, v, scale=0.37, bias=bias), expected, rtol=0, atol=tolerance * 10)


def test_weighs_values_by_the_softmax_of_the_biased_scores() -> None:
    q = torch.tensor([[2.0]])
    k = torch.tensor([[1.0], [0.0]])
    v = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    # Scores 0.5 * 2 * (1, 0) + (0, 3) = (1, 3).
    weights = torch.tensor([1.0, 3.0]).softmax(0)
    torch.testing.assert_close(attention(q, k, v, scale=0.5, bias=torch.tensor([0.0, 3.0])), weights[None])


def test_an_infinite_bias_hides_a_key() -> None:
    q, k, v = (draw(2, 4, 8, seed=i) for i in range(3))
    bias = torch.zeros(4, 4, dtype=torch.float64)
    bias[:, 2] = -torch.inf
    kept = [0, 1, 3]
    torch.testing.assert_close(
        attention(q, k, v, scale=1.0, bias=bias), attention(q, k[:, kept], v[:, kept], scale=1.0)
    )


def test_large_scores_stay_finite() -> None:
    q, k, v = (draw(3, 8, seed=i, dtype=torch.float32) for i in range(3))
    assert attention(1e4 * q, 1e4 * k, v, scale=1.0).isfinite().all()


def test_the_relative_position_is_the_sum_written_out() -> None:
    height, width, dim = 3, 4, 5
    q = draw(2, 6, height * width, dim, seed=1)
    rel_h, rel_w = draw(height, height, dim, seed=2), draw(width, width, dim, seed=3)
    bias = relative_position_bias(q, rel_h, rel_w)
    assert bias.shape == (2, 6, height * width, height * width)
    for query in range(height * width):
        for key in range(height * width):
            near = rel_h[query // width, key // width] + rel_w[query % width, key % width]
            torch.testing.assert_close(bias[..., query, key], (q[..., query, :] * near).sum(-1), rtol=0, atol=1e-14)
    # Without leading axes, too.
    torch.testing.assert_close(relative_position_bias(q[1, 2], rel_h, rel_w), bias[1, 2], rtol=0, atol=1e-14)
