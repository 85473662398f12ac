"""A torch model behind the runtime's interface, so that training validates by the very protocol that bundles are
measured by."""

from collections.abc import Mapping, Sequence
from functools import partial
from types import MappingProxyType

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from samsdk.answers import wanted_masks
from samsdk.auto import AutoPrompts, answer_alone, empty_result
from samsdk.embedding import Embedding
from samsdk.errors import PromptError
from samsdk.io.images import as_array
from samsdk.manifest import SEMANTIC, SINGLE_MASKS
from samsdk.masks import upsample_region
from samsdk.prompts import (
    BACKGROUND,
    BOX_TOP_LEFT,
    FOREGROUND,
    PROMPT_KINDS,
    DecoderInputs,
    Prompt,
    check_kinds,
    encode_prompt,
)
from samsdk.results import Result
from samsdk.semantic import SemanticResult, name_pixels
from samsdk.transforms import Preprocessing, Window
from samsdk_training.checkpoints import Checkpoint
from samsdk_training.class_points import ClassPoints
from samsdk_training.models.sam import Sam

PROVIDER = "torch"


def model_prompt(
    feeds: DecoderInputs, device: torch.device | None = None
) -> tuple[tuple[Tensor, Tensor] | None, Tensor | None, Tensor | None]:
    """Take the runtime's feeds apart into what `Sam.decode` takes: points with labels, boxes, masks; None if absent.

    Padding points are left out: the model appends its own.
    """
    coords = torch.from_numpy(feeds.point_coords).to(device)
    labels = torch.from_numpy(feeds.point_labels).to(device)
    clicked, cornered = (labels == BACKGROUND) | (labels == FOREGROUND), labels >= BOX_TOP_LEFT
    points = (coords[clicked][None], labels[clicked][None]) if clicked.any() else None
    boxes = coords[cornered].reshape(1, 4) if cornered.any() else None
    masks = torch.from_numpy(feeds.mask_input)[None, None].to(device) if feeds.has_mask_input else None
    return points, boxes, masks


@torch.inference_mode()
def point_probabilities(model: Sam, square: Tensor) -> NDArray[np.float32] | None:
    """Where in an image a model that prompts itself would point.

    Args:
        model: in evaluation mode.
        square: [1, 3, S, S], preprocessed as the checkpoint says.

    Returns:
        [S, S], each in [0, 1]; None of a model without a generator.
    """
    if model.auto_prompt_generator is None:
        return None
    return _numpy(model.auto_prompt_generator(square).sigmoid()[0, 0])


class TorchPredictor:
    """Encode and decode with a torch model.

    Args:
        model: in evaluation mode.
        preprocessing: the checkpoint's.
        name: what results and embeddings say they come from.
        single_mask: which mask answers a prompt, see `samsdk.answers.wanted_masks`.
        classes: those of a semantic model, `0` the background; it then takes no prompt but points that name classes,
            if it was trained with them.
        auto: how a model prompts itself; it then needs no prompt, and a generator.
    """

    def __init__(
        self,
        model: Sam,
        preprocessing: Preprocessing,
        name: str = "torch model",
        *,
        single_mask: str = SINGLE_MASKS[0],
        classes: Mapping[str, str] = MappingProxyType({}),
        auto: AutoPrompts | None = None,
    ) -> None:
        self.model = model
        self.preprocessing = preprocessing
        self.name = name
        self.single_mask = single_mask
        self.classes = classes
        self.auto = auto

    @classmethod
    def of(cls, checkpoint: Checkpoint, model: Sam, name: str = "torch model") -> "TorchPredictor":
        """The predictor of a checkpoint, which answers as its bundle will.

        Args:
            checkpoint: says how.
            model: what the checkpoint's `build` returned.
            name: what results and embeddings say they come from.
        """
        classes = checkpoint.classes if checkpoint.task == SEMANTIC else {}
        single, auto = checkpoint.single_mask, checkpoint.auto
        return cls(model, checkpoint.preprocessing, name, single_mask=single, classes=classes, auto=auto)

    @property
    def takes_class_points(self) -> bool:
        """Whether `decode_classes` answers: the model was trained with points that name its classes."""
        return bool(self.classes) and self.model.prompt_encoder.point_classes > 0

    @torch.inference_mode()
    def encode(self, image: object, *, window: Window | None = None) -> Embedding:
        """Encode one image, or a window of it; see `samsdk.Predictor.encode`."""
        square, frame = self.preprocessing.apply_image(as_array(image), window)
        pixels = torch.from_numpy(square).to(self._device)
        tensors = {key: _numpy(value) for key, value in self.model.encode(pixels).items()}
        probabilities = None if self.auto is None else point_probabilities(self.model, pixels)
        return Embedding(tensors, frame, self.name, PROVIDER, point_probabilities=probabilities)

    @torch.inference_mode()
    def decode(
        self,
        embedding: Embedding,
        *,
        points: ArrayLike | None = None,
        labels: ArrayLike | None = None,
        box: ArrayLike | None = None,
        mask: ArrayLike | Result | None = None,
    ) -> Result:
        """Decode one prompt to its single mask; see `samsdk.Predictor.decode`."""
        prompt = Prompt(points, labels, box, mask)
        if self.classes:
            check_kinds(prompt, ())
            return self._name_pixels(embedding)
        answer = partial(self._answer, embedding)
        if self.auto is None:
            return answer([prompt])[0]
        nothing = partial(empty_result, embedding, {}, 1, self.model.prompt_encoder.mask_side)
        return answer_alone(self.auto, embedding, [prompt], answer, nothing)[0]

    @torch.inference_mode()
    def decode_classes(self, embedding: Embedding, points: ClassPoints) -> SemanticResult:
        """Name the class of each pixel, given points in the classes that the image shows. No bundle takes such points.

        Args:
            embedding: what `encode` returned.
            points: a row for all K classes, as in training: (x, y) in pixels of the image as given.

        Raises:
            PromptError: the model was not trained with points that name classes.
        """
        if not self.takes_class_points:
            raise PromptError(f"{self.name} was not trained with points that name classes; leave them out")
        coords = self.preprocessing.apply_coords(points.points, embedding.frame)
        row = torch.from_numpy(coords)[None].to(self._device), torch.from_numpy(points.classes)[None].to(self._device)
        return self._name_pixels(embedding, row)

    def _name_pixels(self, embedding: Embedding, points: tuple[Tensor, Tensor] | None = None) -> SemanticResult:
        logits = self.model.decode_all(self._tensors(embedding), class_points=points)[0][0]
        return name_pixels(_numpy(logits), embedding.frame, self.classes, {}, PROVIDER, self.name)

    def _answer(self, embedding: Embedding, prompts: Sequence[Prompt]) -> list[Result]:
        embeddings, side = self._tensors(embedding), self.model.prompt_encoder.mask_side
        results = []
        for prompt in prompts:
            feeds = encode_prompt(prompt, embedding.frame, self.preprocessing, side, PROMPT_KINDS)
            logits, scores = self._single(embeddings, feeds)
            regions = tuple(upsample_region(np.ascontiguousarray(one), embedding.frame) for one in logits)
            results.append(Result(regions, scores, logits, embedding.frame, {}, {}, PROVIDER, self.name))
        return results

    def _tensors(self, embedding: Embedding) -> dict[str, Tensor]:
        return {key: torch.tensor(value, device=self._device) for key, value in embedding.tensors.items()}

    @property
    def _device(self) -> torch.device:
        return next(self.model.parameters()).device

    def _single(
        self, embeddings: Mapping[str, Tensor], feeds: DecoderInputs
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Logits [1, 4E, 4E] and score [1] of the mask that answers."""
        points, boxes, masks = model_prompt(feeds, self._device)
        logits, scores = self.model.decode_all(embeddings, points=points, boxes=boxes, masks=masks)
        wanted, quality = wanted_masks(_numpy(logits), _numpy(scores), multimask=False, single=self.single_mask)
        return wanted[0], quality[0]


def _numpy(tensor: Tensor) -> NDArray[np.float32]:
    return np.asarray(tensor.float().cpu().numpy(), dtype=np.float32)
