"""The decoder as it is exported: the image stays rows of channels from the first attention to the last mask.

It computes what `samsdk_export.graphs.DecoderGraph` does; each rewrite stands in a module of its own.
"""

import copy
from collections.abc import Sequence

from torch import Tensor, nn

from samsdk_export.absorbed import GatherFromImage, SpreadToImage
from samsdk_export.ahead import PROJECTIONS, GatherFromProjected, SpreadToProjected, first_block
from samsdk_export.channels_last import ChannelsLastUpscaling
from samsdk_export.narrow_mask import NarrowMask
from samsdk_training.models.mask_decoder import MaskDecoder
from samsdk_training.models.sam import Sam
from samsdk_training.models.transformer import TwoWayBlock


class RowsDecoder(nn.Module):
    """Prompt encoder and mask decoder; P prompts of K tokens on one image to all masks of each.

    Args:
        model: in evaluation mode; it is left as it is.
        absorbed: whether to absorb the image-side projections (see `absorbed`); not only to measure what that is worth.
        ahead: whether the encoder's graph gives the first block's projections of the image (see `ahead`).
    """

    def __init__(self, model: Sam, *, absorbed: bool = True, ahead: bool) -> None:
        super().__init__()
        model = copy.deepcopy(model)
        self.ahead = ahead
        self.prompt_encoder, self.decoder = model.prompt_encoder, model.mask_decoder
        self.mask = NarrowMask(model.prompt_encoder)
        self.upscaling = ChannelsLastUpscaling(self.decoder.output_upscaling, model.embedding_side)
        # Their keys would be exported beside the copies.
        del self.decoder.output_upscaling, self.prompt_encoder.mask_downscaling
        transformer = self.decoder.transformer
        if absorbed:
            for layer in _blocks(self.decoder)[1 if ahead else 0 :]:
                gather, spread = layer.cross_attn_token_to_image, layer.cross_attn_image_to_token
                layer.cross_attn_token_to_image = GatherFromImage(gather)  # type: ignore[assignment]
                layer.cross_attn_image_to_token = SpreadToImage(spread)  # type: ignore[assignment]
            transformer.final_attn_token_to_image = GatherFromImage(  # type: ignore[assignment]
                transformer.final_attn_token_to_image
            )
        if ahead:
            first = first_block(model)
            gather, spread = first.cross_attn_token_to_image, first.cross_attn_image_to_token
            self.gather_first = GatherFromProjected(gather, self.mask.rows)
            self.spread_first = SpreadToProjected(spread, self.mask.rows)
            del first.cross_attn_token_to_image, first.cross_attn_image_to_token

    def forward(
        self,
        image_embeddings: Tensor,
        point_coords: Tensor,
        point_labels: Tensor,
        mask_input: Tensor,
        has_mask_input: Tensor,
        *others: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Decode prompts; all as `DecoderGraph.forward`, but before `others` stand `PROJECTIONS` made ahead, if any."""
        projections, skip = others[: len(PROJECTIONS) * self.ahead], others[len(PROJECTIONS) * self.ahead :]
        mask = self.mask(mask_input, has_mask_input)  # [P, F, N]
        image = image_embeddings.flatten(2).transpose(1, 2) + mask.transpose(1, 2) @ self.mask.rows
        first_tokens = self.decoder.tokens(self.prompt_encoder.embed_points(point_coords, point_labels))
        tokens, image = self._attend(first_tokens, image, (*projections, mask) if projections else ())
        tokens = self._ask_last(tokens, first_tokens, image)
        return self._masks(tokens, image, skip), self.decoder.iou_prediction_head(tokens[:, 0])

    def _ask_last(self, tokens: Tensor, first_tokens: Tensor, image: Tensor) -> Tensor:
        """The last attention, [P, 1 + masks, C]."""
        # Only their tokens leave it; those of the prompt have said what they had to say.
        asked, transformer = 1 + self.decoder.num_mask_tokens, self.decoder.transformer
        tokens, first_tokens = tokens[:, :asked], first_tokens[:, :asked]
        gathered = transformer.final_attn_token_to_image(tokens + first_tokens, image + self._positions(), image)
        normalised: Tensor = transformer.norm_final_attn(tokens + gathered)
        return normalised

    def _masks(self, tokens: Tensor, image: Tensor, skip: Sequence[Tensor]) -> Tensor:
        filters = self.decoder.filters(tokens, range(self.decoder.num_mask_tokens))
        logits: Tensor = self.upscaling(filters, image, skip[0] if skip else None)
        return logits

    def _positions(self) -> Tensor:
        return self.prompt_encoder.get_dense_pe().flatten(2).transpose(1, 2)

    def _attend(self, first_tokens: Tensor, image: Tensor, ahead: tuple[Tensor, ...] = ()) -> tuple[Tensor, Tensor]:
        """All blocks; `ahead` are the projections and the narrow mask, where they are made ahead."""
        tokens = first_tokens
        for index, layer in enumerate(_blocks(self.decoder)):
            tokens = layer.attend_to_selves(tokens, first_tokens)
            if index == 0 and ahead:
                keys, values, queries, mask = ahead
                gathered = self.gather_first(tokens + first_tokens, keys, values, mask)
                tokens = layer.digest(tokens, gathered)
                spread = self.spread_first(queries, tokens + first_tokens, tokens, mask)
            else:
                placed = image + self._positions()
                gathered = layer.cross_attn_token_to_image(tokens + first_tokens, placed, image)
                tokens = layer.digest(tokens, gathered)
                spread = layer.cross_attn_image_to_token(placed, tokens + first_tokens, tokens)
            image = _normalise_rows(layer.norm4, image + spread)
        return tokens, image


def _blocks(decoder: MaskDecoder) -> list[TwoWayBlock]:
    blocks = [layer for layer in decoder.transformer.layers if isinstance(layer, TwoWayBlock)]
    if len(blocks) != len(decoder.transformer.layers):
        raise TypeError(f"expected two-way blocks, got {decoder.transformer.layers}")
    return blocks


def _normalise_rows(norm: nn.LayerNorm, rows: Tensor) -> Tensor:
    """With two axes: of three, ONNX Runtime would fuse sum and normalisation, and take twice as long over it."""
    normalised: Tensor = norm(rows.reshape(-1, rows.shape[2]))
    return normalised.reshape(rows.shape)
