"""Points, boxes and masks as embeddings.

After Segment Anything (Kirillov et al., 2023, https://github.com/facebookresearch/segment-anything, Apache-2.0); the
state-dict keys are those of the published weights. The embedding side is an argument: 64 is not universal.
"""

import math

import torch
from torch import Tensor, nn

from samsdk_training.models.layer_norm import LayerNorm2d

NOT_A_POINT = -1


class PositionEmbedding(nn.Module):
    """Random Fourier features of positions in the unit square.

    Args:
        num_features: Number of frequencies F; an embedding has 2F channels, sines first.
    """

    positional_encoding_gaussian_matrix: Tensor

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.register_buffer("positional_encoding_gaussian_matrix", torch.randn(2, num_features))

    def encode(self, positions: Tensor) -> Tensor:
        """Embed positions.

        Args:
            positions: [..., 2] as (x, y), each in [0, 1].

        Returns:
            [..., 2F], in [-1, 1], dtype of the frequencies.
        """
        matrix = self.positional_encoding_gaussian_matrix
        angles = 2 * math.pi * ((2 * positions.to(matrix.dtype) - 1) @ matrix)
        return torch.cat([angles.sin(), angles.cos()], dim=-1)

    def forward(self, side: int) -> Tensor:
        """Embed the centres of a square grid.

        Args:
            side: Number of rows, and of columns, E.

        Returns:
            [2F, E, E].
        """
        matrix = self.positional_encoding_gaussian_matrix
        centres = (torch.arange(side, device=matrix.device, dtype=matrix.dtype) + 0.5) / side
        y, x = torch.meshgrid(centres, centres, indexing="ij")
        return self.encode(torch.stack([x, y], dim=-1)).permute(2, 0, 1)


class PromptEncoder(nn.Module):
    """Embed prompts for the mask decoder.

    Args:
        embed_dim: Width C of the embeddings.
        embedding_side: Side E of the image embedding; a mask prompt has side 4E.
        input_size: Side S in pixels of the image encoder's padded input, the frame of points and boxes.
        mask_channels: Hidden channels of the mask branch.
        point_classes: K, how many classes a point can name; 0 builds no table of classes.
    """

    def __init__(
        self, embed_dim: int, embedding_side: int, input_size: int, mask_channels: int = 16, point_classes: int = 0
    ) -> None:
        super().__init__()
        self.embed_dim = embed_dim
        self.embedding_side = embedding_side
        self.input_size = input_size
        self.point_classes = point_classes
        self.pe_layer = PositionEmbedding(embed_dim // 2)
        # In this order: background point, foreground point, first corner of a box, second corner.
        self.point_embeddings = nn.ModuleList(nn.Embedding(1, embed_dim) for _ in range(4))
        self.not_a_point_embed = nn.Embedding(1, embed_dim)
        self.mask_downscaling = nn.Sequential(
            nn.Conv2d(1, mask_channels // 4, kernel_size=2, stride=2),
            LayerNorm2d(mask_channels // 4),
            nn.GELU(),
            nn.Conv2d(mask_channels // 4, mask_channels, kernel_size=2, stride=2),
            LayerNorm2d(mask_channels),
            nn.GELU(),
            nn.Conv2d(mask_channels, embed_dim, kernel_size=1),
        )
        self.no_mask_embed = nn.Embedding(1, embed_dim)
        if point_classes:
            self.class_embeddings = nn.Embedding(point_classes, embed_dim)
            # A point of any class begins as a point on the foreground.
            with torch.no_grad():
                self.class_embeddings.weight.copy_(self.foreground.expand(point_classes, -1))

    @property
    def foreground(self) -> Tensor:
        """What a point on the foreground adds to its position, [1, C]."""
        return list(self.point_embeddings.parameters())[1]

    @property
    def mask_side(self) -> int:
        """Side in pixels of a mask prompt, 4E."""
        return 4 * self.embedding_side

    def get_dense_pe(self) -> Tensor:
        """Return the positions of the image embedding, [1, C, E, E]."""
        grid: Tensor = self.pe_layer(self.embedding_side)
        return grid.unsqueeze(0)

    def embed_points(self, coords: Tensor, labels: Tensor) -> Tensor:
        """Embed labelled points, without appending a padding point.

        Args:
            coords: [P, K, 2] as (x, y), pixels of the S x S input, (0, 0) the centre of the first pixel.
            labels: [P, K], integer or float: 1 foreground, 0 background, 2 and 3 a box's first and second corner,
                -1 padding, whose coordinates do not matter.

        Returns:
            [P, K, C].
        """
        labels = labels.unsqueeze(-1)  # [P, K, 1]
        embedding = self.pe_layer.encode((coords + 0.5) / self.input_size)
        for label, kind in enumerate(self.point_embeddings.parameters()):
            embedding = torch.where(labels == label, embedding + kind, embedding)
        return torch.where(labels == NOT_A_POINT, self.not_a_point_embed.weight, embedding)

    def embed_class_points(self, coords: Tensor, classes: Tensor) -> Tensor:
        """Embed points that name a class, for models of several classes.

        How the publication that uses such points (Cheap Lunch, Feng et al., 2023) encodes them is not known; this
        adds a learned embedding of the class to that of the position.

        Args:
            coords: [P, K, 2] as in `embed_points`.
            classes: [P, K] integers from 1 on; -1 pads, whatever the coordinates.

        Returns:
            [P, K, C].
        """
        named = self.class_embeddings(classes.clamp(min=1) - 1)
        embedding = self.pe_layer.encode((coords + 0.5) / self.input_size) + named
        return torch.where(classes.unsqueeze(-1) == NOT_A_POINT, self.not_a_point_embed.weight, embedding)

    def embed_boxes(self, boxes: Tensor) -> Tensor:
        """Embed boxes as their two corners.

        Args:
            boxes: [P, 4], or [P, 1, 4], as (x0, y0, x1, y1), pixels of the S x S input.

        Returns:
            [P, 2, C].
        """
        corners = boxes.reshape(-1, 2, 2)
        return self.embed_points(corners, torch.tensor([[2, 3]], device=boxes.device))

    def forward(
        self, points: tuple[Tensor, Tensor] | None, boxes: Tensor | None, masks: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Embed any combination of prompts, P of each kind that is given.

        Args:
            points: Coordinates [P, K, 2] and labels [P, K] as in `embed_points`, or None. Without a box, one padding
                point is appended, as in training.
            boxes: [P, 4] as in `embed_boxes`, or None.
            masks: Mask prompts [P, 1, 4E, 4E], or None.

        Returns:
            Sparse embeddings [P, T, C], points before corners (T = 0 without any), and dense ones [P, C, E, E].
        """
        sparse = []
        if points is not None:
            coords, labels = points
            if boxes is None:
                coords = torch.cat([coords, coords.new_zeros(coords.shape[0], 1, 2)], dim=1)
                labels = torch.cat([labels, labels.new_full((labels.shape[0], 1), NOT_A_POINT)], dim=1)
            sparse.append(self.embed_points(coords, labels))
        if boxes is not None:
            sparse.append(self.embed_boxes(boxes))
        if not sparse:
            count = 1 if masks is None else masks.shape[0]
            sparse.append(self.no_mask_embed.weight.new_empty(count, 0, self.embed_dim))
        embedded = torch.cat(sparse, dim=1)
        return embedded, self._embed_masks(masks, embedded.shape[0])

    def _embed_masks(self, masks: Tensor | None, count: int) -> Tensor:
        if masks is not None:
            embedded: Tensor = self.mask_downscaling(masks)
            return embedded
        constant = self.no_mask_embed.weight.reshape(1, -1, 1, 1)
        return constant.expand(count, -1, self.embedding_side, self.embedding_side)
