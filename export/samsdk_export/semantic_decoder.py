"""The decoder of a semantic model as it is exported: nothing but the image comes in, all that is constant is folded."""

from torch import Tensor

from samsdk_export.rows_decoder import RowsDecoder
from samsdk_training.models.sam import Sam


class SemanticDecoder(RowsDecoder):
    """Mask decoder without prompts: N images to one mask for the background and one for each class.

    Args:
        model: in evaluation mode; it is left as it is.
    """

    def __init__(self, model: Sam) -> None:
        # An image is decoded once, so that there is nothing to gain by projecting it ahead.
        super().__init__(model, ahead=False)
        self.no_mask: Tensor
        self.positions: Tensor
        self.first_tokens: Tensor
        no_mask = self.prompt_encoder.no_mask_embed.weight.detach()
        self.register_buffer("no_mask", no_mask)  # [1, C]
        self.register_buffer("positions", super()._positions().detach())
        self.register_buffer("first_tokens", self.decoder.tokens(no_mask.new_empty(1, 0, no_mask.shape[1])).detach())
        del self.mask, self.prompt_encoder, self.decoder.iou_prediction_head

    def forward(self, image_embeddings: Tensor, *others: Tensor) -> Tensor:  # type: ignore[override]
        """Decode images.

        Args:
            image_embeddings: [N, C, E, E].
            others: `high_res_features`, [N, C/4, 2E, 2E], where the model has them.

        Returns:
            Logits [N, 1 + K, 4E, 4E].
        """
        image = image_embeddings.flatten(2).transpose(1, 2) + self.no_mask
        first_tokens = self.first_tokens.expand(image.shape[0], -1, -1)
        tokens, image = self._attend(first_tokens, image)
        return self._masks(self._ask_last(tokens, first_tokens, image), image, others)

    def _positions(self) -> Tensor:
        return self.positions
