"""The routes of files to download."""

from collections.abc import Mapping
from typing import Annotated, Any, TypeVar

from fastapi import APIRouter, Depends, Path, Query, Request, Response

from samsdk.serve.dicom_files import DICOM_FORMATS, DicomFormat, found_masks
from samsdk.serve.downloads import FORMATS, Contents, Format, Found
from samsdk.serve.problems import Refused, documented
from samsdk.serve.routes import IMAGE_BODY, content_type
from samsdk.serve.schemas import LARGEST_OBJECT
from samsdk.serve.service import Opened, Running
from samsdk.serve.sessions import Session
from samsdk.serve.uploads import check_size
from samsdk.serve.workers import Cancelled

router = APIRouter(responses=documented(404, 410))
Wanted = Annotated[int | None, Query(ge=1, le=LARGEST_OBJECT, description="one object; all of them when left out")]
Kind = TypeVar("Kind", Format, DicomFormat)


def _files(formats: Mapping[str, Format | DicomFormat]) -> dict[int | str, dict[str, Any]]:
    """For OpenAPI: a success is a file of one of these formats."""
    content = {one.media: {"schema": {"type": "string", "format": "binary"}} for one in formats.values()}
    return {200: {"description": "the file", "content": content}}


@router.get(
    "/sessions/{session}/files/{kind}",
    response_class=Response,
    responses={**_files(FORMATS), **documented(404, 409, 410, 501)},
)
async def download(
    request: Request,
    session: Opened,
    service: Running,
    kind: Annotated[str, Path(description=f"one of: {', '.join(FORMATS)}")],
    object: Wanted = None,
) -> Response:
    """A file: the mask of one object, or all objects together (label map, or COCO annotations)."""
    made = _known(FORMATS, kind)
    contents = Contents(session.size, session.spacing, _found(session, object), together=object is None)
    data = await service.workers.bulk(request, lambda _: made.write(contents))
    return _file(data, made, object)


@router.post(
    "/sessions/{session}/dicom/{kind}",
    response_class=Response,
    responses={**_files(DICOM_FORMATS), **documented(404, 408, 409, 410, 415, 501)},
    openapi_extra=IMAGE_BODY,
    dependencies=[Depends(content_type)],
)
async def download_dicom(
    request: Request,
    session: Opened,
    service: Running,
    kind: Annotated[str, Path(description=f"one of: {', '.join(DICOM_FORMATS)}")],
    object: Wanted = None,
) -> Response:
    """A DICOM segmentation, or a zip with one and the report of its measurements.

    They carry patient and study of the image, of which the session keeps nothing: send its DICOM file once more.
    """
    made = _known(DICOM_FORMATS, kind)
    if session.scan.source is None:
        raise Refused(409, "no_dicom", "the image did not come from a DICOM file, which these files refer to")
    found = _found(session, object)

    def job(source: bytes, _: Cancelled) -> bytes:
        check_size(source, service.limits)
        return made.write(found_masks(found), source)

    data = await service.upload(request, job)
    return _file(data, made, object)


def _known(formats: Mapping[str, Kind], kind: str) -> Kind:
    if kind not in formats:
        raise Refused(404, "not_found", f"expected one of the formats {', '.join(formats)}")
    return formats[kind]


def _found(session: Session, number: int | None) -> list[Found]:
    """One object, or all that have a mask."""
    wanted = sorted(session.objects) if number is None else [session.object(number).number]
    found = [
        Found(number, session.objects[number].name, answer)
        for number in wanted
        if (answer := session.objects[number].current)
    ]
    if not found:
        raise Refused(409, "nothing", "there is no mask yet; prompt first")
    return found


def _file(data: bytes, made: Format | DicomFormat, number: int | None) -> Response:
    name = f"{'objects' if number is None else f'object-{number}'}.{made.suffix}"
    return Response(data, media_type=made.media, headers={"Content-Disposition": f'attachment; filename="{name}"'})
