"""The drop-in for `segment_anything.SamPredictor`: an image is set, then asked about; same names and order."""

from abc import ABC, abstractmethod
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from samsdk.embedding import Embedding
from samsdk.errors import ImageNotSetError
from samsdk.io.images import as_array
from samsdk.masks import upsample_logits
from samsdk.results import Result
from samsdk.transforms import Window


class SamPredictor(ABC):
    """What `samsdk.Predictor` has of `segment_anything.SamPredictor`; like it, it holds one image."""

    _current: Embedding | None = None

    @abstractmethod
    def encode(self, image: object, *, window: Window | None = None) -> Embedding:
        """Run the encoder on one image, or on a part of it."""

    @abstractmethod
    def decode(
        self,
        embedding: Embedding,
        *,
        points: ArrayLike | None = None,
        labels: ArrayLike | None = None,
        box: ArrayLike | None = None,
        mask: ArrayLike | Result | None = None,
        multimask: bool = False,
    ) -> Result:
        """Segment what one prompt points at."""

    def set_image(self, image: object, image_format: str = "RGB") -> None:
        """Encode an image for the following calls of `predict`; as `SamPredictor.set_image`.

        Args:
            image: see `encode`.
            image_format: order of an array's colour channels, `RGB` or `BGR`; files say it themselves.

        Raises:
            ImageError: the image cannot be read or used.
            ValueError: the format is neither.
        """
        if image_format not in ("RGB", "BGR"):
            raise ValueError(f"image_format must be 'RGB' or 'BGR', got {image_format!r}")
        self.reset_image()
        pixels: NDArray[np.generic] = as_array(image)
        if image_format == "BGR" and isinstance(image, np.ndarray) and pixels.ndim == 3:
            pixels = pixels[..., ::-1]
        self._current = self.encode(pixels)

    def predict(
        self,
        point_coords: NDArray[Any] | None = None,
        point_labels: NDArray[Any] | None = None,
        box: NDArray[Any] | None = None,
        mask_input: NDArray[Any] | None = None,
        multimask_output: bool = True,
        return_logits: bool = False,
    ) -> tuple[NDArray[np.bool_] | NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
        """Segment what a prompt points at in the image that was set; as `SamPredictor.predict`.

        Args:
            point_coords: [K, 2], (x, y) in pixels of the image as given.
            point_labels: [K], 1 for the object and 0 for what is not.
            box: (x0, y0, x1, y1) in pixels of the image as given.
            mask_input: [1, 4E, 4E] low-res logits of a former call.
            multimask_output: return three masks for an ambiguous prompt, else one.
            return_logits: return masks as logits [M, H, W] float32 instead of bool.

        Returns:
            (masks [M, H, W] bool, iou_predictions [M] float32, low_res_logits [M, 4E, 4E] float32).

        Raises:
            ImageNotSetError: no image is set.
            PromptError: the prompt is malformed.
        """
        embedding = self._require_image()
        result = self.decode(
            embedding, points=point_coords, labels=point_labels, box=box, mask=mask_input, multimask=multimask_output
        )
        masks = upsample_logits(result.low_res_logits, embedding.frame) if return_logits else result.masks
        return masks, result.scores, result.low_res_logits

    def get_image_embedding(self) -> NDArray[np.float32]:
        """The embedding of the image that was set, [1, C, E, E] float32, read-only; as `SamPredictor`'s."""
        return self._require_image().image_embeddings

    def reset_image(self) -> None:
        """Forget the image that was set."""
        self._current = None

    def _require_image(self) -> Embedding:
        if self._current is None:
            raise ImageNotSetError("an image must be set with .set_image(...) first")
        return self._current
