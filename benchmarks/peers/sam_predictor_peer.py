"""What the workers of peers with Segment Anything's own interface share: `SamPredictor`, batched prompts."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from protocol import Decoded, Peer, Prompts

TIMED = "preprocessing and encoder (`set_image`); prompts, decoder, resize to the image and threshold (`predict_torch`)"


class SamPredictorPeer(Peer):
    """A predictor with `set_image` and `predict_torch`; a subclass's `load` sets `predictor` and `torch`."""

    def encode(self, image: NDArray[Any]) -> None:
        """`set_image`."""
        self._size = image.shape[:2]
        self.predictor.set_image(image)

    def decode(self, prompts: Prompts) -> Decoded:
        """`predict_torch`, all prompts in one call where they have as many points each; one mask a prompt."""
        if prompts.boxes is not None:
            corners = self._in_square(prompts.boxes.reshape(-1, 2, 2))
            return Decoded(self._predict(boxes=corners.reshape(-1, 4)), batched=True)
        batched = len({len(points) for points in prompts.points}) == 1
        groups = [range(len(prompts))] if batched else [range(i, i + 1) for i in range(len(prompts))]
        masks: list[NDArray[np.bool_]] = []
        for group in groups:
            points = np.stack([prompts.points[index] for index in group])
            labels = np.stack([prompts.labels[index] for index in group])
            masks.extend(self._predict(point_coords=self._in_square(points), point_labels=self.torch.as_tensor(labels)))
        return Decoded(masks, batched=batched)

    def _in_square(self, coordinates: NDArray[np.float64]) -> Any:
        as_float = self.torch.as_tensor(coordinates, dtype=self.torch.float32)
        return self.predictor.transform.apply_coords_torch(as_float, self._size)

    def _predict(self, **prompt: Any) -> NDArray[np.bool_]:
        given = {"point_coords": None, "point_labels": None, "boxes": None} | prompt
        masks, _, _ = self.predictor.predict_torch(**given, multimask_output=False)
        return np.asarray(masks[:, 0].cpu().numpy())


def set_threads(torch: Any, request: Mapping[str, Any]) -> None:
    """As many threads as asked for, and weights that are the same in each process."""
    torch.manual_seed(0)
    if request.get("threads") is not None:
        torch.set_num_threads(request["threads"])


def load_weights(torch: Any, model: Any, request: Mapping[str, Any]) -> str:
    """Load the checkpoint that the request names; without one the builder's random weights stay.

    Returns:
        `published` or `random`, for the answer.
    """
    if request.get("weights") is None:
        return "random"
    state = torch.load(request["weights"], map_location="cpu", weights_only=True)
    model.load_state_dict(state)
    return "published"


def about(name: str, version: str, weights: str, *stand_ins: str) -> dict[str, Any]:
    """What `load` answers."""
    excluded = ["reading the image file", *stand_ins]
    return {
        "name": name,
        "version": version,
        "weights": weights,
        "timed": TIMED,
        "excluded": "; ".join(filter(None, excluded)),
    }
