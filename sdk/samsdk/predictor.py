"""The predictor: encode an image once, decode each prompt."""

import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from samsdk.answers import alike_prompts, of_scan, run_decoder, run_encoder, run_prompter, wanted_masks
from samsdk.auto import answer_alone, empty_result, prompts_itself
from samsdk.backends.onnxruntime import Providers
from samsdk.backends.options import BackendOptions
from samsdk.bundle import Bundle
from samsdk.embedding import Embedding
from samsdk.engines import Engines, open_engines
from samsdk.errors import BundleError, PromptError
from samsdk.io.images import as_scan
from samsdk.manifest import SEMANTIC
from samsdk.masks import upsample_region
from samsdk.measuring.calibration import calibration_for
from samsdk.measuring.perturbation import vary
from samsdk.millimetres import prompt_pixels
from samsdk.prompts import DecoderInputs, Prompt, check_kinds, encode_prompt, warn_untrained
from samsdk.recent import ImageView, RecentEmbeddings
from samsdk.regions import answer_prompt
from samsdk.results import Result
from samsdk.sam_predictor import SamPredictor
from samsdk.semantic import name_pixels
from samsdk.transforms import Frame, Window
from samsdk.zoom import Zoom

DEFAULT_TIER: Final = "exact"


class Predictor(SamPredictor):
    """A bundle that is ready to run.

    A semantic bundle takes no prompt; it answers with a `SemanticResult` where others answer with a `Result`. One that
    prompts itself needs none, and answers with an `AutoResult`; to points that it is given it adds its own.

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
        self._prompter = self._engines.prompter
        self._identity = bundle.identity
        self.mask_threshold = self.manifest.mask_threshold
        self._recent = RecentEmbeddings()

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
        kinds = self.manifest.trained_kinds
        prompts = {"points": Prompt(points=[(0, 0)]), "box": Prompt(box=(0, 0, side, side))}
        self.decode_batch(embedding, [next((prompts[kind] for kind in prompts if kind in kinds), Prompt())])

    def encode(self, image: object, *, window: Window | None = None) -> Embedding:
        """Run the encoder on one image, or on a part of it.

        Args:
            image: a path, the bytes of an image file, an array HxW, HxWx3 (RGB) or HxWx4 (RGBA; alpha is dropped) of
                uint8, uint16, other integers, bool or floats, a PIL image, or a `Scan`.
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
        scan = as_scan(image)
        pixels, frame = self.manifest.preprocessing.apply_image(scan.pixels, window)
        prepared = time.perf_counter()
        tensors, on_device = run_encoder(self._encoder, pixels)
        probabilities = run_prompter(self._prompter, pixels)
        done = time.perf_counter()
        timings = {"preprocess": (prepared - start) * 1e3, "encode": (done - prepared) * 1e3}
        made = self._identity, self._encoder.provider, timings
        return Embedding(tensors, frame, *made, on_device, probabilities, scan.spacing, scan.source)

    def decode(
        self,
        embedding: Embedding,
        *,
        points: ArrayLike | None = None,
        labels: ArrayLike | None = None,
        box: ArrayLike | None = None,
        mask: ArrayLike | Result | None = None,
        points_mm: ArrayLike | None = None,
        box_mm: ArrayLike | None = None,
        multimask: bool = False,
    ) -> Result:
        """Segment what one prompt points at.

        Args:
            embedding: what `encode` returned.
            points: [K, 2], (x, y) in pixels of the image as given. A bundle that prompts itself adds its own to them,
                unless there is a box or a mask, which say that one object is meant.
            labels: [K], 1 for the object and 0 for what is not; all 1 when left out.
            box: (x0, y0, x1, y1) in pixels of the image as given, x1 and y1 exclusive.
            mask: a former result of the same image, [H, W] bool or integers, or low-res logits of the same window.
            points_mm: instead of `points`, in millimetres from the image's upper left corner; see `samsdk.millimetres`.
            box_mm: likewise instead of `box`.
            multimask: return the masks for ambiguous prompts instead of the single one.

        Raises:
            PromptError: the prompt is malformed or of a kind that the bundle lacks, or in millimetres without spacing.
            BundleError: another bundle made the embedding.
            BackendError: the engine failed, or its output is not finite.
        """
        points, box = prompt_pixels(embedding.spacing, points, box, points_mm, box_mm)
        return self.decode_batch(embedding, [Prompt(points, labels, box, mask)], multimask=multimask)[0]

    def decode_batch(self, embedding: Embedding, prompts: Sequence[Prompt], *, multimask: bool = False) -> list[Result]:
        """Segment what each of many prompts points at.

        Prompts with the same number of points and box corners share engine calls of up to 64 (on a processor 16). They
        are not padded to a common number: a padding token takes part in attention and would change the mask.

        Args:
            embedding: what `encode` returned.
            prompts: any number of prompts; all are checked before any is run.
            multimask: see `decode`.

        Returns:
            One result per prompt, in their order. `timings["decode"]` is the engine call's share of one prompt.

        Raises:
            PromptError, BundleError, BackendError: as `decode`.
        """
        self._expect(embedding)
        if multimask and self.manifest.multimask_outputs == 0:
            raise PromptError("this bundle has no masks for ambiguous prompts; leave multimask out")
        if self.manifest.task == SEMANTIC:
            for prompt in prompts:
                check_kinds(prompt, self.manifest.prompt_kinds)
            return of_scan([self._name_pixels(embedding) for _ in prompts], embedding)
        answer = partial(self._answer, embedding, multimask)
        if self.manifest.auto is None:
            return of_scan(answer(prompts), embedding)
        masks = self.manifest.multimask_outputs if multimask else 1
        nothing = partial(empty_result, embedding, self.manifest.classes, masks, self.manifest.mask_side)
        return of_scan(answer_alone(self.manifest.auto, embedding, prompts, answer, nothing), embedding)

    def _answer(self, embedding: Embedding, multimask: bool, prompts: Sequence[Prompt]) -> list[Result]:
        inputs = [self._encode_prompt(prompt, embedding.frame) for prompt in prompts]
        results: dict[int, Result] = {}
        for members in alike_prompts(inputs, self.provider):
            answers = self._answer_group(embedding, [inputs[index] for index in members], multimask)
            results.update(zip(members, answers, strict=True))
        tables = [calibration_for(self.manifest.calibration, prompt.kinds) for prompt in prompts]
        return [replace(results[index], calibration=table) for index, table in enumerate(tables)]

    def decode_all(self, embedding: Embedding, prompt: Prompt) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """All that the decoder's graph makes of one prompt, before any mask is chosen.

        Args:
            embedding: what `encode` returned.
            prompt: an empty one for a semantic bundle. To this one no bundle adds points of its own.

        Returns:
            Logits [1 + M, 4E, 4E] and predicted IoU [1 + M]: the single mask, then those for ambiguous prompts. Of a
            semantic bundle the logits of the background and of each class, and no predicted IoU, [0].

        Raises:
            PromptError, BundleError, BackendError: as `decode`.
        """
        self._expect(embedding)
        check_kinds(prompt, self.manifest.prompt_kinds)
        inputs = [] if self.manifest.task == SEMANTIC else [self._encode_prompt(prompt, embedding.frame)]
        logits, scores, _ = run_decoder(self._decoder, embedding, inputs)
        return logits[0], scores[0]

    def _expect(self, embedding: Embedding) -> None:
        if embedding.bundle != self._identity:
            raise BundleError(
                f"the embedding was made by bundle {embedding.bundle}, this predictor runs {self._identity}"
            )

    def _encode_prompt(self, prompt: Prompt, frame: Frame) -> DecoderInputs:
        manifest = self.manifest
        feeds = encode_prompt(prompt, frame, manifest.preprocessing, manifest.mask_side, manifest.prompt_kinds)
        warn_untrained(prompt, manifest.trained_kinds, manifest.name)
        return feeds

    def _answer_group(self, embedding: Embedding, inputs: Sequence[DecoderInputs], multimask: bool) -> list[Result]:
        all_logits, all_scores, decode = run_decoder(self._decoder, embedding, inputs)
        logits, scores = wanted_masks(all_logits, all_scores, multimask, self.manifest.single_mask)
        return [self._result(embedding, *answer, decode) for answer in zip(logits, scores, strict=True)]

    def _result(
        self, embedding: Embedding, logits: NDArray[np.float32], scores: NDArray[np.float32], decode: float
    ) -> Result:
        start = time.perf_counter()
        regions = tuple(upsample_region(one, embedding.frame, self.mask_threshold) for one in logits)
        timings = {**embedding.timings, "decode": decode, "postprocess": (time.perf_counter() - start) * 1e3}
        return Result(
            regions, scores, logits, embedding.frame, self.manifest.classes, timings, self.provider, self._identity
        )

    def _name_pixels(self, embedding: Embedding) -> Result:
        logits, _, decode = run_decoder(self._decoder, embedding, [])
        timings = {**embedding.timings, "decode": decode}
        return name_pixels(logits[0], embedding.frame, self.manifest.classes, timings, self.provider, self._identity)

    def segment(
        self,
        image: object,
        *,
        points: ArrayLike | None = None,
        labels: ArrayLike | None = None,
        box: ArrayLike | None = None,
        mask: ArrayLike | Result | None = None,
        points_mm: ArrayLike | None = None,
        box_mm: ArrayLike | None = None,
        multimask: bool = False,
        zoom: bool | None = None,
        variations: int = 0,
    ) -> Result:
        """Encode and decode in one call; the embeddings of the last images are kept, so a second click is one decode.

        Args:
            image: see `encode`.
            points: see `decode`; likewise `labels`, `box`, `points_mm`, `box_mm` and `multimask`.
            mask: see `decode`; with zoom, low-res logits are refused: give the result that they come from.
            zoom: look a second time, at a window around the object, for which that part of the image is encoded too
                (see `samsdk.zoom`). None does what the bundle recommends; most models from elsewhere recommend nothing.
                Unless it is False, the first look at an image far larger than the network's input is at the region
                that the prompt is about (see `samsdk.regions`).
            variations: how many prompts that are moved a little are answered, too, for the ranges of `Result.measure`.

        Raises:
            ImageError, PromptError, BundleError, BackendError: as `encode` and `decode`.
        """
        prompt = Prompt(points if points_mm is None else points_mm, labels, box if box_mm is None else box_mm, mask)
        check_kinds(prompt, self.manifest.prompt_kinds, needed=self.manifest.auto is None)
        whole = self.manifest.task == SEMANTIC or (self.manifest.auto is not None and prompts_itself(prompt))
        if zoom and whole:
            raise PromptError("the answer is of the whole image, there is no object to look closer at; leave zoom out")
        view = ImageView(image, self.encode, self._recent)
        if points_mm is not None or box_mm is not None:
            points, box = prompt_pixels(view.spacing, points, box, points_mm, box_mm)
            prompt = replace(prompt, points=points, box=box)

        def answer(embedding: Embedding, prompt: Prompt) -> Result:
            return self.decode_batch(embedding, [prompt], multimask=multimask)[0]

        if whole:
            return answer(view.encode(None), prompt)
        if zoom is False:
            result = answer(view.encode(None), prompt)
        else:
            result = answer_prompt(view.encode, answer, prompt, view.size, self.manifest, self.zoom(zoom))
        return vary(result, prompt, view.encode, self.decode_batch, variations) if variations else result

    def forget(self) -> None:
        """Let go of the embeddings that `segment` keeps of the last images."""
        self._recent.clear()

    def zoom(self, wanted: bool | None = None) -> Zoom | None:
        """How close `segment` looks a second time, or None if it does not; None asks for the bundle's advice."""
        if wanted is None:
            return self.manifest.zoom
        return (self.manifest.zoom or Zoom()) if wanted else None
