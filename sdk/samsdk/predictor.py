"""The predictor: encode an image once, decode each prompt."""

import time
import warnings
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from samsdk.backends.cuda import DeviceArray
from samsdk.backends.onnxruntime import Providers
from samsdk.backends.options import BackendOptions
from samsdk.backends.tensorrt import TensorRtBackend
from samsdk.bundle import Bundle
from samsdk.embedding import Embedding
from samsdk.engines import Engines, open_engines
from samsdk.errors import BackendError, BundleError, ImageNotSetError, PromptError
from samsdk.io.images import as_array
from samsdk.masks import upsample_logits, upsample_region
from samsdk.prompts import DecoderInputs, Prompt, encode_prompt
from samsdk.recent import ImageView, RecentEmbeddings
from samsdk.results import Result
from samsdk.transforms import Frame, Window
from samsdk.zoom import Zoom, segment_zoomed

DEFAULT_TIER: Final = "exact"
# In one engine call: more only takes more memory, and compiled engines are built for as many.
MOST_PROMPTS: Final = 64


class Predictor:
    """A bundle that is ready to run.

    `encode`, `decode`, `decode_batch` and `segment` may be called from several threads at once. `set_image`, `predict`
    and `reset_image` are a drop-in for `segment_anything.SamPredictor` and, like it, hold one image: use one predictor
    per thread for them, or the embedding handles.

    Args:
        bundle: an opened bundle.
        device: see `load`.
        tier: see `load`.
        options: settings of the engine.
        uncertified: see `load`.

    Raises:
        BundleError: the tier is not there, not for this device, or not certified.
        BackendError: the device was asked for by name and is not there.
        MissingExtraError: the device needs an extra that is not installed.
    """

    def __init__(
        self,
        bundle: Bundle,
        *,
        device: str | Providers = "auto",
        tier: str | None = None,
        options: BackendOptions = BackendOptions(),  # noqa: B008 (frozen)
        uncertified: str | None = None,
    ) -> None:
        self.bundle = bundle
        self.manifest = bundle.manifest
        self.tier = tier or DEFAULT_TIER
        self._engines = open_engines(bundle, device, self.tier, options, uncertified)
        self._encoder, self._decoder = self._engines.encoder, self._engines.decoder
        self._identity = bundle.identity
        self.mask_threshold = self.manifest.mask_threshold
        self._recent = RecentEmbeddings()
        self._current: Embedding | None = None

    @property
    def provider(self) -> str:
        """The execution provider that really runs the decoder."""
        return self._decoder.provider

    @property
    def engines(self) -> Engines:
        """What the bundle's tier was loaded as: backend, plan and certificate."""
        return self._engines

    def warm_up(self) -> None:
        """Run each graph once on nothing, so that what engines put off (memory, kernels) does not delay a user."""
        side = self.manifest.preprocessing.input_size
        embedding = self.encode(np.zeros((side, side), np.uint8))
        kind = "points" if "points" in self.manifest.trained_kinds else "box"
        prompt = Prompt(points=[(0, 0)]) if kind == "points" else Prompt(box=(0, 0, side, side))
        self.decode_batch(embedding, [prompt])

    def encode(self, image: object, *, window: Window | None = None) -> Embedding:
        """Run the encoder on one image, or on a part of it.

        Args:
            image: a path, the bytes of an image file, an array HxW, HxWx3 (RGB) or HxWx4 (RGBA; alpha is dropped) of
                uint8, uint16, other integers, bool or floats, or a PIL image.
            window: (x0, y0, x1, y1) in whole pixels, x1 and y1 exclusive: only this part is encoded, at full
                resolution. Prompts and masks stay in pixels of the whole image; masks end at the window's border.

        Returns:
            The handle that `decode` takes.

        Raises:
            ImageError: the image cannot be read or used.
            ValueError: the window is empty or reaches out of the image.
            BackendError: the engine failed, or its output is not finite.
        """
        start = time.perf_counter()
        pixels, frame = self.manifest.preprocessing.apply_image(as_array(image), window)
        prepared = time.perf_counter()
        tensors, on_device = self._run_encoder({"image": pixels})
        for name, tensor in tensors.items():
            _check_finite(tensor, name)
        done = time.perf_counter()
        timings = {"preprocess": (prepared - start) * 1e3, "encode": (done - prepared) * 1e3}
        return Embedding(tensors, frame, self._identity, self._encoder.provider, timings, on_device)

    def _run_encoder(
        self, feeds: Mapping[str, NDArray[np.float32]]
    ) -> tuple[dict[str, NDArray[np.float32]], Mapping[str, DeviceArray] | None]:
        if not isinstance(self._encoder, TensorRtBackend):
            return self._encoder.run(feeds), None
        # The decoder reads them where they are; the copy is for the check, for `save`, and for decoders elsewhere.
        on_device = self._encoder.run_on_device(feeds)
        return {name: array.numpy() for name, array in on_device.items()}, on_device

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
        """Segment what one prompt points at.

        Args:
            embedding: what `encode` returned.
            points: [K, 2], (x, y) in pixels of the image as given.
            labels: [K], 1 for the object and 0 for what is not; all 1 when left out.
            box: (x0, y0, x1, y1) in pixels of the image as given, x1 and y1 exclusive.
            mask: a former result of the same image, [H, W] bool or integers, or low-res logits of the same window.
            multimask: return the masks for ambiguous prompts instead of the single one.

        Raises:
            PromptError: the prompt is malformed or of a kind that the bundle lacks.
            BundleError: another bundle made the embedding.
            BackendError: the engine failed, or its output is not finite.
        """
        return self.decode_batch(embedding, [Prompt(points, labels, box, mask)], multimask=multimask)[0]

    def decode_batch(self, embedding: Embedding, prompts: Sequence[Prompt], *, multimask: bool = False) -> list[Result]:
        """Segment what each of many prompts points at.

        Prompts with the same number of points and box corners share engine calls of up to 64 prompts. They are not
        padded to a common number: a padding token takes part in attention and would change the mask.

        Args:
            embedding: what `encode` returned.
            prompts: any number of prompts; all are checked before any is run.
            multimask: see `decode`.

        Returns:
            One result per prompt, in their order. `timings["decode"]` is the engine call's share of one prompt.

        Raises:
            PromptError, BundleError, BackendError: as `decode`.
        """
        if embedding.bundle != self._identity:
            raise BundleError(
                f"the embedding was made by bundle {embedding.bundle}, this predictor runs {self._identity}"
            )
        if multimask and self.manifest.multimask_outputs == 0:
            raise PromptError("this bundle has no masks for ambiguous prompts; leave multimask out")
        inputs = [self._encode_prompt(prompt, embedding.frame) for prompt in prompts]
        groups: dict[int, list[int]] = {}
        for index, feeds in enumerate(inputs):
            groups.setdefault(len(feeds.point_labels), []).append(index)
        results: dict[int, Result] = {}
        shared = groups.values()
        for members in (group[at : at + MOST_PROMPTS] for group in shared for at in range(0, len(group), MOST_PROMPTS)):
            answers = self._run_decoder(embedding, [inputs[index] for index in members], multimask)
            results.update(zip(members, answers, strict=True))
        return [results[index] for index in range(len(prompts))]

    def _encode_prompt(self, prompt: Prompt, frame: Frame) -> DecoderInputs:
        manifest = self.manifest
        feeds = encode_prompt(prompt, frame, manifest.preprocessing, manifest.mask_side, manifest.prompt_kinds)
        if not set(prompt.kinds) & set(manifest.trained_kinds):
            warnings.warn(
                f"{manifest.name!r} was trained with {' and '.join(manifest.trained_kinds)} prompts only, got "
                f"{' and '.join(prompt.kinds)}: expect a poor mask",
                UserWarning,
                stacklevel=4,
            )
        return feeds

    def _run_decoder(self, embedding: Embedding, inputs: Sequence[DecoderInputs], multimask: bool) -> list[Result]:
        start = time.perf_counter()
        beside = isinstance(self._decoder, TensorRtBackend) and embedding.on_device
        outputs = self._decoder.run(
            {
                **(beside or embedding.tensors),
                "point_coords": np.stack([feeds.point_coords for feeds in inputs]),
                "point_labels": np.stack([feeds.point_labels for feeds in inputs]),
                "mask_input": np.stack([feeds.mask_input for feeds in inputs])[:, None],
                "has_mask_input": np.array([feeds.has_mask_input for feeds in inputs], dtype=np.float32),
            }
        )
        decode = (time.perf_counter() - start) * 1e3 / len(inputs)
        logits, scores = self._wanted(outputs["low_res_masks"], outputs["iou_predictions"], multimask)
        _check_finite(logits, "low_res_masks")
        _check_finite(scores, "iou_predictions")
        return [self._result(embedding, *answer, decode) for answer in zip(logits, scores, strict=True)]

    def _wanted(
        self, logits: NDArray[np.float32], scores: NDArray[np.float32], multimask: bool
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Of all masks [P, 1 + M, L, L] and scores [P, 1 + M], those that were asked for."""
        if not multimask and self.manifest.single_mask == "best":
            best = 1 + scores[:, 1:].argmax(axis=1, keepdims=True)
            return np.take_along_axis(logits, best[:, :, None, None], axis=1), np.take_along_axis(scores, best, axis=1)
        wanted = slice(1, None) if multimask else slice(0, 1)
        return logits[:, wanted], scores[:, wanted]

    def _result(
        self, embedding: Embedding, logits: NDArray[np.float32], scores: NDArray[np.float32], decode: float
    ) -> Result:
        start = time.perf_counter()
        regions = tuple(upsample_region(one, embedding.frame, self.mask_threshold) for one in logits)
        postprocess = (time.perf_counter() - start) * 1e3
        timings = {**embedding.timings, "decode": decode, "postprocess": postprocess}
        return Result(
            regions, scores, logits, embedding.frame, self.manifest.classes, timings, self.provider, self._identity
        )

    def segment(
        self,
        image: object,
        *,
        points: ArrayLike | None = None,
        labels: ArrayLike | None = None,
        box: ArrayLike | None = None,
        mask: ArrayLike | Result | None = None,
        multimask: bool = False,
        zoom: bool | None = None,
    ) -> Result:
        """Encode and decode in one call; the embeddings of the last images are kept, so a second click is one decode.

        Args:
            image: see `encode`.
            points: see `decode`; likewise `labels`, `box` and `multimask`.
            mask: see `decode`; with zoom, low-res logits are refused: give the result that they come from.
            zoom: look a second time, at a window around the object, for which that part of the image is encoded too
                (see `samsdk.zoom`). None does what the bundle recommends; most models from elsewhere recommend nothing.

        Raises:
            ImageError, PromptError, BundleError, BackendError: as `encode` and `decode`.
        """
        prompt = Prompt(points, labels, box, mask)
        view = ImageView(image, self.encode, self._recent)
        closeness = self.zoom(zoom)
        if closeness is None:
            return self._answer(view.encode(None), prompt, multimask)
        # A malformed prompt is refused as it was given, before anything is cut to a window.
        manifest = self.manifest
        frame = manifest.preprocessing.frame(view.size)
        encode_prompt(prompt, frame, manifest.preprocessing, manifest.mask_side, manifest.prompt_kinds)
        answer = partial(self._answer, multimask=multimask)
        return segment_zoomed(view.encode, answer, prompt, view.size, closeness)

    def forget(self) -> None:
        """Let go of the embeddings that `segment` keeps of the last images."""
        self._recent.clear()

    def zoom(self, wanted: bool | None = None) -> Zoom | None:
        """How close `segment` looks a second time, or None if it does not; None asks for the bundle's advice."""
        if wanted is None:
            return self.manifest.zoom
        return (self.manifest.zoom or Zoom()) if wanted else None

    def _answer(self, embedding: Embedding, prompt: Prompt, multimask: bool) -> Result:
        return self.decode_batch(embedding, [prompt], multimask=multimask)[0]

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


def _check_finite(tensor: NDArray[np.float32], name: str) -> None:
    if not np.isfinite(tensor).all():
        raise BackendError(f"the engine's output {name} holds NaN or infinity; run `samsdk doctor` on this device")
