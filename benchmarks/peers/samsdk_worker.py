"""samsdk itself, driven by the same protocol as its peers, in the project's own environment.

    {"do": "load", "model": NAME or PATH or null, "device": "auto", "tier": null, "zoom": false, ...}

With "zoom" an image is encoded where a prompt asks for it (`Predictor.segment`): `encode` only forgets what was kept,
and the first `decode` of an image holds the encoder's time.
"""

import sys
from collections.abc import Mapping, Sequence
from typing import Any

from numpy.typing import NDArray
from protocol import Decoded, Peer, Prompts, serve

import samsdk
from samsdk.prompts import Prompt


class Samsdk(Peer):
    """A predictor."""

    reads_any_image = True
    thread_safe = True

    def load(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Load a bundle."""
        device, tier = request.get("device", "auto"), request.get("tier")
        predictor = samsdk.load(request.get("model"), device=device, tier=tier, threads=request.get("threads"))
        self._predictor, self._zoom = predictor, bool(request.get("zoom", False))
        apart = "`Predictor.encode` with preprocessing; `decode_batch` up to masks of the image's size"
        together = "`Predictor.segment` with zoom, whose first call on an image encodes it; `encode` does nothing"
        return {
            "name": f"samsdk, {predictor.manifest.name}, {device}",
            "version": f"samsdk {samsdk.__version__}, bundle {predictor.bundle.identity}",
            # `random_vit_b.py` says so; all others were trained.
            "weights": predictor.manifest.lineage.get("weights", "trained"),
            "task": predictor.manifest.task,
            "provider": predictor.provider,
            "precision": predictor.engines.plan.precision,
            "tier": predictor.tier,
            "zoom": self._zoom,
            "timed": together if self._zoom else apart,
            "excluded": "reading the image file",
        }

    def encode(self, image: NDArray[Any]) -> None:
        """Encode, or with zoom let go of what is known of former images."""
        self._predictor.forget()
        self._image = image
        if not self._zoom:
            self._embedding = self._predictor.encode(image)

    def decode(self, prompts: Prompts) -> Decoded:
        """One engine call for all prompts; with zoom each has a window of its own."""
        if self._zoom:
            return self._segment(self._image, prompts)
        return self._decode(self._embedding, prompts)

    def answer(self, image: NDArray[Any], prompts: Prompts) -> Decoded:
        """Through handles of this call alone, so that threads share nothing."""
        return self._segment(image, prompts) if self._zoom else self._decode(self._predictor.encode(image), prompts)

    def _decode(self, embedding: samsdk.Embedding, prompts: Prompts) -> Decoded:
        answers = self._predictor.decode_batch(embedding, self._asked(prompts))
        return Decoded([answer.mask for answer in answers], batched=True)

    def _asked(self, prompts: Prompts) -> Sequence[Prompt]:
        """A model that finds what it knows by itself is asked once, whatever the prompts are."""
        return _prompts(prompts) if self._predictor.manifest.prompt_kinds else [Prompt()]

    def _segment(self, image: NDArray[Any], prompts: Prompts) -> Decoded:
        answers = [self._predictor.segment(image, zoom=True, **_kinds(one)) for one in _prompts(prompts)]
        return Decoded([answer.mask for answer in answers], batched=False)


def _prompts(prompts: Prompts) -> Sequence[Prompt]:
    if prompts.boxes is not None:
        return [Prompt(box=box) for box in prompts.boxes]
    return [Prompt(points, labels) for points, labels in zip(prompts.points, prompts.labels, strict=True)]


def _kinds(prompt: Prompt) -> dict[str, Any]:
    return {"points": prompt.points, "labels": prompt.labels, "box": prompt.box}


if __name__ == "__main__":
    sys.exit(serve(Samsdk()))
