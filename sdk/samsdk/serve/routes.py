"""The routes: sessions, prompts, files."""

from typing import Annotated, Any, Final

from fastapi import APIRouter, Depends, Path, Query, Request, Response
from fastapi.responses import JSONResponse

from samsdk.backends.extras import is_importable
from samsdk.serve.dicom_files import DICOM_FORMATS
from samsdk.serve.downloads import FORMATS
from samsdk.serve.guard import UPLOAD_PATH
from samsdk.serve.objects import Answer
from samsdk.serve.problems import Refused, documented
from samsdk.serve.replies import answer_reply, measured, object_reply
from samsdk.serve.schemas import (
    LARGEST_OBJECT,
    AnswerReply,
    Batch,
    BatchReply,
    ObjectChange,
    ObjectReply,
    OpenedReply,
    SessionChange,
    SessionReply,
    SinglePrompt,
    Variations,
)
from samsdk.serve.service import Opened, Running, Service
from samsdk.serve.sessions import Session
from samsdk.serve.uploads import Choice, check_spacing
from samsdk.serve.workers import Cancelled

router = APIRouter(responses=documented(404, 410))
Number = Annotated[int, Path(ge=1, le=LARGEST_OBJECT)]
# What a form of another site's page can send without asking first is not among them.
_IMAGE_TYPES: Final = ("application/octet-stream", "application/dicom", "image/")
IMAGE_BODY: Final = {
    "requestBody": {
        "required": True,
        "description": "the image file itself, as it is on disk",
        "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
    }
}
_LEVELS: Final[dict[int | str, dict[str, Any]]] = {
    200: {
        "description": "levels row by row, see `shown` of the session; 16 bits are little-endian",
        "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
    }
}


async def content_type(request: Request) -> None:
    """Take image files alone, in a body that no form of another site's page can send.

    Raises:
        Refused: the body is of another type.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if not kind.startswith(_IMAGE_TYPES):
        raise Refused(
            415,
            "media_type",
            "expected the image file itself as body, with Content-Type: application/octet-stream (curl --data-binary "
            "@FILE -H 'Content-Type: application/octet-stream')",
        )


async def _choice(
    spacing: Annotated[
        str | None, Query(description="sides of a pixel in mm where the file does not say: `0.3`, or `0.3,0.25` (x, y)")
    ] = None,
    frame: Annotated[int | None, Query(ge=0, le=10**6, description="of a file of several, from 0 on")] = None,
    window: Annotated[
        str | None, Query(description="`centre,width` of a DICOM file's greyscale; as the file says when left out")
    ] = None,
) -> Choice:
    lengths = None if spacing is None else check_spacing(_numbers(spacing))
    greyscale = None if window is None else _numbers(window)
    if greyscale is None:
        return Choice(frame, None, lengths)
    if len(greyscale) != 2:
        raise Refused(422, "window", "expected window=CENTRE,WIDTH, two numbers, as 40,400")
    return Choice(frame, (greyscale[0], greyscale[1]), lengths)


def _numbers(text: str) -> list[float]:
    """Numbers with commas between them; none where one is no number."""
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        return []


@router.post(
    UPLOAD_PATH,
    status_code=201,
    response_model=OpenedReply,
    responses=documented(404, 408, 415, 501),
    openapi_extra=IMAGE_BODY,
    dependencies=[Depends(content_type)],
)
async def open_session(
    request: Request,
    service: Running,
    choice: Annotated[Choice, Depends(_choice)],
    model: Annotated[str | None, Query(description="name of a model, see `/models`")] = None,
) -> Response:
    """Open an image: it is read and encoded once, then prompted as often as you like."""
    session, levels = await service.open(request, model, choice)
    height, width = levels.levels.shape[:2]
    reply = {
        **_session_reply(session, service.limits.idle_seconds),
        "shown": {
            "size": [height, width],
            "channels": 3 if levels.levels.ndim == 3 else 1,
            "bits": levels.levels.dtype.itemsize * 8,
            "start": levels.start,
            "step": levels.step,
            "least": levels.least,
            "greatest": levels.greatest,
            "low": levels.low,
            "high": levels.high,
        },
        "timings": {stage: round(value, 3) for stage, value in session.timings.items()},
    }
    return JSONResponse(reply, 201)


@router.get("/sessions/{session}", response_model=SessionReply)
async def get_session(request: Request, session: Opened, service: Running) -> Response:
    """An open image and all of its objects."""
    return await _session_state(request, session, service)


@router.patch("/sessions/{session}", response_model=SessionReply)
async def change_session(request: Request, session: Opened, service: Running, change: SessionChange) -> Response:
    """Say how large a pixel is, where the file did not; every object is measured again."""
    session.spacing = check_spacing(change.spacing) if change.spacing else None
    return await _session_state(request, session, service)


@router.delete("/sessions/{session}", status_code=204, response_class=Response)
async def close_session(session: Opened, service: Running) -> Response:
    """Close an image; the service lets go of it and of all that was found in it."""
    service.sessions.close(session.id, "deleted", "it was deleted")
    return Response(status_code=204)


@router.get("/sessions/{session}/image", response_class=Response, responses=_LEVELS)
async def get_image(request: Request, session: Opened, service: Running) -> Response:
    """The image for a screen, at most 4096 pixels a side, to be windowed there.

    Of greyscale DICOM files it is the modality's numbers, whatever window the model sees them through.
    """
    levels = await service.workers.bulk(request, lambda _: session.upload.shown().levels.tobytes())
    return Response(levels, media_type="application/octet-stream")


@router.post("/sessions/{session}/prompts", response_model=AnswerReply, responses=documented(404, 409, 410))
async def prompt(request: Request, session: Opened, service: Running, body: SinglePrompt) -> Response:
    """Segment what one prompt points at. Say `mask` to correct an answer, else it is a new look."""
    (answer,) = await service.answer(request, session, [body], body.multimask, body.zoom)
    moved = body.variations if "measures" in body.include else 0
    await _measure(request, session, service, answer, moved)
    reply = await service.workers.prompt(request, lambda _: answer_reply(answer, session.spacing, body.include, moved))
    return JSONResponse(reply)


@router.post("/sessions/{session}/batches", response_model=BatchReply, responses=documented(404, 409, 410))
async def prompt_many(request: Request, session: Opened, service: Running, body: Batch) -> Response:
    """Segment what each of many prompts points at; each without `object` and `mask` is a new object."""
    answers = await service.answer(request, session, body.prompts, body.multimask, body.zoom)

    def job(_: Cancelled) -> list[dict[str, Any]]:
        return [answer_reply(answer, session.spacing, body.include) for answer in answers]

    return JSONResponse({"answers": await service.workers.bulk(request, job)})


@router.patch("/sessions/{session}/objects/{number}", response_model=ObjectReply, responses=documented(404, 410))
async def change_object(
    request: Request, session: Opened, service: Running, number: Number, change: ObjectChange
) -> Response:
    """Give an object a name."""
    session.object(number).name = change.name
    return await _object_state(request, session, service, number)


@router.get("/sessions/{session}/objects/{number}", response_model=ObjectReply, responses=documented(404, 410))
async def get_object(
    request: Request, session: Opened, service: Running, number: Number, variations: Variations = 0
) -> Response:
    """An object as it is, measured; with `variations` each value has a range, from so many moved prompts."""
    one = session.object(number)
    if one.current:
        await _measure(request, session, service, one.current, variations)
    return await _object_state(request, session, service, number, variations)


@router.delete("/sessions/{session}/objects/{number}", status_code=204, response_class=Response)
async def delete_object(session: Opened, number: Number) -> Response:
    """Delete an object and all of its answers."""
    session.object(number)
    del session.objects[number]
    session.weigh()
    return Response(status_code=204)


@router.post(
    "/sessions/{session}/objects/{number}/undo", response_model=ObjectReply, responses=documented(404, 409, 410)
)
async def undo(request: Request, session: Opened, service: Running, number: Number) -> Response:
    """Take an object's last answer back."""
    session.object(number).undo()
    return await _object_state(request, session, service, number)


@router.post(
    "/sessions/{session}/objects/{number}/redo", response_model=ObjectReply, responses=documented(404, 409, 410)
)
async def redo(request: Request, session: Opened, service: Running, number: Number) -> Response:
    """Bring back what was taken back last."""
    session.object(number).redo()
    return await _object_state(request, session, service, number)


async def _session_state(request: Request, session: Session, service: Service) -> Response:
    # Measuring takes time: not on the loop that all requests share.
    reply = await service.workers.bulk(request, lambda _: _session_reply(session, service.limits.idle_seconds))
    return JSONResponse(reply)


async def _measure(request: Request, session: Session, service: Service, answer: Answer, variations: int) -> None:
    """Measure an answer with so many moved prompts, of which it then knows the ranges."""
    if variations and (session.spacing, variations) not in answer.measured:
        spacing = session.spacing

        def job(cancelled: Cancelled) -> None:
            answer.remember(spacing, variations, measured(session.vary(answer, variations, cancelled), spacing))

        await service.workers.bulk(request, job)


async def _object_state(
    request: Request, session: Session, service: Service, number: int, variations: int = 0
) -> Response:
    one = session.object(number)
    reply = await service.workers.prompt(request, lambda _: object_reply(one, session.spacing, variations))
    return JSONResponse(reply)


def _session_reply(session: Session, idle_seconds: float) -> dict[str, Any]:
    return {
        "id": session.id,
        "size": list(session.size),
        "spacing": list(session.spacing) if session.spacing else None,
        "frames": session.upload.frames,
        "frame": session.upload.frame,
        "model": session.predictor.manifest.name,
        "formats": list(FORMATS),
        "dicom_formats": list(DICOM_FORMATS) if session.scan.source and is_importable("highdicom") else [],
        "idle_seconds": idle_seconds,
        "objects": [object_reply(one, session.spacing) for _, one in sorted(session.objects.copy().items())],
    }
