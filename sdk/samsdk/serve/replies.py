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
from samsdk.serve.objects import Answer, TrackedObject
from samsdk.serve.schemas import Part


def measures(answer: Answer, spacing: Spacing | None) -> list[dict[str, Any]]:
    """What can be measured of a mask: in pixels, and in mm where the size of a pixel is known.

    Args:
        answer: of a session, which keeps them.
        spacing: (x, y) mm of a pixel.
    """
    if spacing in answer.measured:
        return answer.measured[spacing]
    found = []
    for key, value in measure(answer.result.region, spacing).values().items():
        name, _, unit = key.rpartition("_")
        found.append({"name": name.replace("_", " "), "value": value, "unit": unit.replace("2", "²")})
    answer.measured[spacing] = found
    return found


def answer_reply(answer: Answer, spacing: Spacing | None, include: Collection[Part]) -> dict[str, Any]:
    """An answer as JSON can hold it, see `AnswerReply`.

    Args:
        answer: of a session.
        spacing: of the image's pixels.
        include: what else is wanted.
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
        reply["measures"] = measures(answer, spacing)
    if "rle" in include:
        reply["rle"] = result.rle()
    if "polygons" in include:
        reply["polygons"] = [outline.tolist() for outline in result.polygons()]
    if "png" in include:
        reply["png"] = base64.b64encode(png_bytes(result.mask)).decode()
    return reply


def object_reply(one: TrackedObject, spacing: Spacing | None) -> dict[str, Any]:
    """An object as JSON can hold it, see `ObjectReply`."""
    current = one.current
    return {
        "number": one.number,
        "name": one.name,
        "answer": answer_reply(current, spacing, {"rle", "measures"}) if current else None,
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
