"""Cubic windows over a grid of tokens, shifted in every other block, and what says which tokens may see each other.

After the shifted windows of Swin (Liu et al., 2021), as AutoProSAM has them in three dimensions. No tensor has more
than five axes, because not every engine takes more.
"""

from itertools import product

import torch
from torch import Tensor


def shift_of(grid: tuple[int, int, int], window: int, shifted: bool) -> tuple[int, ...]:
    """By how many tokens the grid is rolled along each axis; none along one that a single window spans."""
    return tuple(window // 2 if shifted and side > window else 0 for side in grid)


def partition(x: Tensor, window: int) -> Tensor:
    """Cut a grid into cubes.

    Args:
        x: [N, H, W, D, C], sides in multiples of the window.
        window: w.

    Returns:
        [N, windows, w * w * w, C], windows and the tokens in each in the order of the axes.
    """
    height, width, depth, channels = x.shape[1:]
    rows, columns, layers = height // window, width // window, depth // window
    x = x.reshape(-1, window, columns, window, depth * channels).transpose(1, 2)
    x = x.reshape(-1, window * window, layers, window, channels).transpose(1, 2)
    return x.reshape(-1, rows * columns * layers, window**3, channels)


def assemble(x: Tensor, grid: tuple[int, int, int], window: int) -> Tensor:
    """Put cubes together again: the inverse of `partition`.

    Args:
        x: [N, windows, w * w * w, C].
        grid: (H, W, D).
        window: w.

    Returns:
        [N, H, W, D, C].
    """
    (height, width, depth), channels = grid, x.shape[-1]
    columns, layers = width // window, depth // window
    x = x.reshape(-1, layers, window * window, window, channels).transpose(1, 2)
    x = x.reshape(-1, columns, window, window, depth * channels).transpose(1, 2)
    return x.reshape(-1, height, width, depth, channels)


def wrapped(grid: tuple[int, int, int], window: int, shift: tuple[int, ...]) -> Tensor:
    """Which tokens of a rolled grid came around its end, so that a window shows them beside what they are far from.

    Args:
        grid: (H, W, D).
        window: w.
        shift: how far the grid was rolled towards its start.

    Returns:
        [windows, w * w * w, 3] bool, along each axis; tokens of a window see each other where all three agree.
    """
    axes = [torch.arange(side) >= side - moved for side, moved in zip(grid, shift, strict=True)]
    marks = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1)  # [H, W, D, 3]
    return partition(marks[None], window)[0]


def coordinates(window: int) -> Tensor:
    """Where the tokens of a cube lie: [w * w * w, 3] integers from 0 on."""
    return torch.tensor(list(product(range(window), repeat=3)))
