"""Answers, objects and sessions as JSON."""

import base64
from collections.abc import Collection
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from samsdk.errors import BackendError
from samsdk.io.dicom_spacing import Spacing
from samsdk.measuring import measure
from samsdk.results import Result
from samsdk.serve.objects import Answer, Measured, TrackedObject
from samsdk.serve.schemas import Part


def measured(result: Result, spacing: Spacing | None) -> Measured:
    """What can be measured of a mask: in pixels, and in mm where the size of a pixel is known.

    Args:
        result: with `variations`, each value has a range.
        spacing: (x, y) mm of a pixel.
    """
    found = measure(result.region, spacing, result.variations)
    stability = found.stability
    ranges = stability.ranges if stability else {}
    measures = []
    for key, value in found.values().items():
        name, _, unit = key.rpartition("_")
        one = {"name": name.replace("_", " "), "value": value, "unit": unit.replace("2", "²")}
        measures.append({**one, "range": list(ranges[key])} if key in ranges else one)
    reply: Measured = {"measures": measures}
    if stability:
        reply["stability"] = {"agreement": stability.agreement, "variations": stability.variations}
    return reply


def _known(answer: Answer, spacing: Spacing | None, variations: int) -> Measured:
    """What was measured of an answer with so many moved prompts; without any, where that was not done."""
    found = answer.measured.get((spacing, variations)) or answer.measured.get((spacing, 0))
    if found is None:
        found = measured(answer.result, spacing)
        answer.remember(spacing, 0, found)
    return found


def answer_reply(
    answer: Answer, spacing: Spacing | None, include: Collection[Part], variations: int = 0
) -> dict[str, Any]:
    """An answer as JSON can hold it, see `AnswerReply`.

    Args:
        answer: of a session.
        spacing: of the image's pixels.
        include: what else is wanted.
        variations: with how many moved prompts it is measured, if that was done.
    """
    result = answer.result
    reply = {
        "answer": answer.number,
        "object": answer.object,
        "score": result.score,
        "scores": [float(score) for score in result.scores],
        "confidence": result.confidence,
        "size": list(result.frame.original_size),
        "area": result.area,
        "box": list(result.box) if result.box else None,
        "window": list(result.frame.window),
        "timings": {
            **{stage: round(value, 3) for stage, value in result.timings.items()},
            "total": round(answer.milliseconds, 3),
        },
        "provider": result.provider,
        "model": result.bundle,
    }
    if "measures" in include:
        reply.update(_known(answer, spacing, variations))
    if "rle" in include:
        reply["rle"] = result.rle()
    if "polygons" in include:
        reply["polygons"] = [outline.tolist() for outline in result.polygons()]
    if "png" in include:
        reply["png"] = base64.b64encode(png_bytes(result.region.full())).decode()
    return reply


def object_reply(one: TrackedObject, spacing: Spacing | None, variations: int = 0) -> dict[str, Any]:
    """An object as JSON can hold it, see `ObjectReply`; and `answer_reply`."""
    current = one.current
    return {
        "number": one.number,
        "name": one.name,
        "answer": answer_reply(current, spacing, {"rle", "measures"}, variations) if current else None,
        "undo": len(one.answers),
        "redo": len(one.undone),
    }


def png_bytes(values: NDArray[Any]) -> bytes:
    """A mask as PNG, 0 and 255; or numbers of objects, of 8 or 16 bits, as they are.

    Args:
        values: [H, W] bool, uint8 or uint16.

    Raises:
        BackendError: the image library failed.
    """
    done, encoded = cv2.imencode(".png", values.astype(np.uint8) * 255 if values.dtype == np.bool_ else values)
    if not done:
        raise BackendError(f"PNG encoding failed for shape {values.shape}")
    return encoded.tobytes()
