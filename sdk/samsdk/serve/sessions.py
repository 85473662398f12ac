"""A session: one image, encoded once, with the objects that were found in it."""

import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final

from samsdk.auto import prompts_itself
from samsdk.embedding import Embedding
from samsdk.errors import CancelledError
from samsdk.io.dicom_spacing import Spacing
from samsdk.measuring.perturbation import vary
from samsdk.predictor import Predictor
from samsdk.prompts import Prompt, check_kinds, encode_prompt
from samsdk.regions import answer_prompt
from samsdk.results import Result
from samsdk.serve.limits import Limits
from samsdk.serve.objects import Answer, TrackedObject
from samsdk.serve.problems import Refused
from samsdk.serve.uploads import Upload
from samsdk.serve.workers import Cancelled, Gate
from samsdk.transforms import Window

# A user goes back and forth between a few objects; the whole image stays beside these.
_WINDOWS: Final = 8


class Session:
    """One image and its objects.

    `look`, `ask` and `vary` compute, and may be called from any thread; all else belongs to the event loop's.

    Args:
        predictor: that answers.
        upload: the image.
        gate: which encoding has to pass.
    """

    def __init__(self, predictor: Predictor, upload: Upload, gate: Gate) -> None:
        self.id = secrets.token_urlsafe(24)
        self.predictor = predictor
        self.upload = upload
        self.scan = upload.scan
        self.spacing: Spacing | None = upload.scan.spacing
        self.objects: dict[int, TrackedObject] = {}
        self.used = time.monotonic()
        self.nbytes = upload.nbytes
        self.timings: Mapping[str, float] = {}
        self._gate = gate
        self._whole: Embedding | None = None
        self._windows: OrderedDict[Window, Embedding] = OrderedDict()
        self._lock = threading.Lock()
        self._answers = 0
        self._numbers = 0

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the image."""
        height, width = self.scan.pixels.shape[:2]
        return height, width

    def look(self, cancelled: Cancelled) -> None:
        """Encode the whole image, as soon as it is its turn; not if nobody wants it any more."""
        self.timings = self._encode(None, cancelled, urgent=False).timings

    def ask(
        self, prompts: Sequence[Prompt], *, multimask: bool, zoom: bool | None, cancelled: Cancelled
    ) -> list[tuple[Result, Prompt | None]]:
        """Answer prompts as `Predictor.segment` does, with the embeddings that this session keeps.

        Args:
            prompts: in pixels of the image; one is what somebody clicked, more are less urgent.
            multimask: see `Predictor.decode`.
            zoom: see `Predictor.segment`.
            cancelled: whether nobody wants the answers any more.

        Returns:
            Of each prompt its result, which shares its memory with no other, and the prompt as `vary` takes it.

        Raises:
            PromptError, BackendError: as `Predictor.segment`.
            CancelledError: nobody wants them.
        """
        predictor, manifest = self.predictor, self.predictor.manifest
        frame = manifest.preprocessing.frame(self.size)
        alone = False
        for prompt in prompts:
            # All of them, before any is run: a batch is answered as a whole or not at all.
            check_kinds(prompt, manifest.prompt_kinds, needed=manifest.auto is None)
            if prompt.kinds:
                encode_prompt(prompt, frame, manifest.preprocessing, manifest.mask_side, manifest.prompt_kinds)
            alone = alone or (manifest.auto is not None and prompts_itself(prompt))

        def encode(window: Window | None) -> Embedding:
            return self._encode(window, cancelled, urgent=len(prompts) == 1)

        def answer(embedding: Embedding, prompt: Prompt) -> Result:
            return predictor.decode_batch(embedding, [prompt], multimask=multimask)[0]

        if alone or zoom is False:
            results = predictor.decode_batch(encode(None), prompts, multimask=multimask)
        else:
            closeness = predictor.zoom(zoom)
            results = [answer_prompt(encode, answer, prompt, self.size, manifest, closeness) for prompt in prompts]
        return [(_own(result), None if alone else prompt) for result, prompt in zip(results, prompts, strict=True)]

    def vary(self, answer: Answer, count: int, cancelled: Cancelled) -> Result:
        """The result of an answer with what moved prompts give, as `Predictor.segment(variations=)` does.

        Raises:
            CancelledError: nobody wants it any more.
        """
        if answer.prompt is None or count == 0:
            return answer.result

        def decode(embedding: Embedding, prompts: Sequence[Prompt]) -> list[Result]:
            found = []
            for prompt in prompts:
                # One at a time: whoever clicks meanwhile is not to wait for all of them.
                if cancelled():
                    raise CancelledError("nobody waits for these ranges any more")
                found += self.predictor.decode_batch(embedding, [prompt])
            return found

        def encode(window: Window | None) -> Embedding:
            return self._encode(window, cancelled, urgent=False)

        return vary(answer.result, answer.prompt, encode, decode, count)

    def _encode(self, window: Window | None, cancelled: Cancelled, *, urgent: bool) -> Embedding:
        with self._lock:
            found = self._whole if window is None else self._windows.get(window)
            if found and window is not None:
                self._windows.move_to_end(window)
        if found:
            return found
        with self._gate.slot(urgent=urgent):
            if cancelled():
                raise CancelledError("nobody waits for this image any more")
            embedding = self.predictor.encode(self.scan, window=window)
        # Whoever finds it did not wait for it.
        kept = replace(embedding, timings={"preprocess": 0.0, "encode": 0.0})
        with self._lock:
            if window is None:
                self._whole = kept
            else:
                self._windows[window] = kept
                while len(self._windows) > _WINDOWS:
                    self._windows.popitem(last=False)
        return embedding

    def object(self, number: int) -> TrackedObject:
        """One of its objects.

        Raises:
            Refused: it has none of this number.
        """
        if number not in self.objects:
            raise Refused(404, "not_found", f"this session has no object {number}; it has {len(self.objects)} objects")
        return self.objects[number]

    def answer(self, number: int) -> Answer:
        """An answer that is kept, to be corrected.

        Raises:
            Refused: there is none of this number, or it was forgotten.
        """
        for one in self.objects.values():
            for answer in reversed((*one.answers, *one.undone)):
                if answer.number == number:
                    return answer
        raise Refused(404, "not_found", f"this session has no answer {number}; give the number of one that it gave")

    def number_for(self, wanted: int | None, corrected: Answer | None, most: int) -> int:
        """The object that a prompt is about, which may be a new one.

        Args:
            wanted: number that the client gave.
            corrected: the answer that the prompt corrects, if any.
            most: objects of a session.

        Raises:
            Refused: there are too many objects.
        """
        number = wanted or (corrected.object if corrected else None)
        if number not in self.objects and len(self.objects) >= most:
            raise Refused(409, "objects", f"expected at most {most} objects in a session; delete some, or open another")
        if number is None:
            self._numbers += 1
            return self._numbers
        self._numbers = max(self._numbers, number)
        return number

    def add(self, number: int, result: Result, prompt: Prompt | None, milliseconds: float, limits: Limits) -> Answer:
        """Keep a result as an object's mask."""
        self._answers += 1
        answer = Answer(self._answers, number, result, prompt, milliseconds)
        self.objects.setdefault(number, TrackedObject(number, f"Object {number}")).add(answer, limits.answers)
        self.weigh()
        if self.nbytes > limits.memory_bytes:
            # Closing other sessions cannot make this one smaller: it forgets what it could undo.
            for one in self.objects.values():
                one.forget()
            self.weigh()
        return answer

    def weigh(self) -> None:
        """Find out how much memory it holds."""
        with self._lock:
            embeddings = [*self._windows.values(), *([self._whole] if self._whole else [])]
        answers = (answer for one in self.objects.values() for answer in (*one.answers, *one.undone))
        results = {id(result): result for answer in answers for result in answer.results}
        self.nbytes = (
            self.upload.nbytes
            + sum(_embedding_bytes(embedding) for embedding in embeddings)
            + sum(_result_bytes(result) for result in results.values())
        )


def _own(result: Result) -> Result:
    """The result with logits of its own: as a decoder leaves them, they hold on to all masks of all prompts."""
    return replace(result, low_res_logits=result.low_res_logits.copy())


def _embedding_bytes(embedding: Embedding) -> int:
    probabilities = embedding.point_probabilities
    return sum(tensor.nbytes for tensor in embedding.tensors.values()) + (
        0 if probabilities is None else probabilities.nbytes
    )


def _result_bytes(result: Result) -> int:
    return result.low_res_logits.nbytes + sum(region.inside.nbytes for region in result.regions)
