"""What the image encoders share: a square input of fixed size, a square embedding, SAM's neck."""

from typing import Generic, Protocol, TypeVar

from torch import Tensor, nn

from samsdk_training.models.layer_norm import LayerNorm2d


class EncoderShape(Protocol):
    """What is known of every encoder's configuration."""

    @property
    def image_size(self) -> int:
        """Side S of the input in pixels."""

    @property
    def embedding_side(self) -> int:
        """Side E of the image embedding."""

    @property
    def out_channels(self) -> int:
        """Channels C of the image embedding."""


Shape = TypeVar("Shape", bound=EncoderShape)


class SquareEncoder(nn.Module, Generic[Shape]):
    """An encoder of square images.

    Args:
        config: its shape.
    """

    def __init__(self, config: Shape) -> None:
        super().__init__()
        self.config = config

    @property
    def image_size(self) -> int:
        """Side S of the input in pixels."""
        return self.config.image_size

    @property
    def embedding_side(self) -> int:
        """Side E of the image embedding."""
        return self.config.embedding_side

    @property
    def embedding_shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of each output by name, without the batch."""
        side = self.embedding_side
        return {"image_embeddings": (self.config.out_channels, side, side)}

    def expect_size(self, image: Tensor) -> None:
        """Refuse images [N, 3, S, S] of another side than the encoder was built for.

        Needed where blocks let the batch absorb what is left: a larger image would pass as several small ones.

        Raises:
            ValueError: The image does not have that side.
        """
        if image.shape[-2] != self.image_size or image.shape[-1] != self.image_size:
            raise ValueError(f"expected images of {self.image_size} x {self.image_size}, got {tuple(image.shape)}")


def build_neck(dim: int, out: int) -> nn.Sequential:
    """SAM's neck: from the last block's channels to those of the image embedding."""
    return nn.Sequential(
        nn.Conv2d(dim, out, kernel_size=1, bias=False),
        LayerNorm2d(out),
        nn.Conv2d(out, out, kernel_size=3, padding=1, bias=False),
        LayerNorm2d(out),
    )
