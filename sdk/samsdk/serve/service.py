"""What the routes of one running service share."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Annotated, TypeVar

from fastapi import Depends, FastAPI, Request
from starlette.requests import ClientDisconnect

from samsdk.errors import BundleError, CancelledError
from samsdk.io.dicom_spacing import Spacing
from samsdk.manifest import AUTO, PROMPTABLE
from samsdk.millimetres import prompt_pixels
from samsdk.predictor import Predictor
from samsdk.prompts import Prompt
from samsdk.results import Result
from samsdk.serve.limits import Limits
from samsdk.serve.metrics import Metrics
from samsdk.serve.objects import Answer
from samsdk.serve.open_sessions import Sessions
from samsdk.serve.problems import Refused
from samsdk.serve.schemas import PromptBody
from samsdk.serve.screen import Shown
from samsdk.serve.sessions import Session
from samsdk.serve.uploads import Choice, read_upload
from samsdk.serve.workers import Cancelled, Workers

# How often sessions that nobody uses are looked for.
_SWEEP_SECONDS = 5.0
T = TypeVar("T")


class Service:
    """Models, sessions and threads of one service.

    Args:
        predictors: by the name under which a session may ask for them; the first is the default.
        limits: of the service.

    Raises:
        BundleError: there is none, or one takes no prompts.
    """

    def __init__(self, predictors: Mapping[str, Predictor], limits: Limits) -> None:
        if not predictors:
            raise BundleError("a service needs at least one model")
        for name, predictor in predictors.items():
            if predictor.manifest.task not in (PROMPTABLE, AUTO):
                raise BundleError(
                    f"the service runs models that take prompts, {name!r} is for the task {predictor.manifest.task!r}; "
                    "use samsdk segment or samsdk.load for it"
                )
        self.predictors = dict(predictors)
        self.limits = limits
        self.workers = Workers(limits)
        self.metrics = Metrics(
            lambda: len(self.sessions), lambda: self.sessions.nbytes, lambda: float(self.workers.pending)
        )
        self.sessions = Sessions(limits, self.metrics.count_closed)
        self.stopping = False
        self.ready = False
        self._uploads = 0
        self._reading = asyncio.Semaphore(limits.uploads)

    @asynccontextmanager
    async def running(self, _app: FastAPI) -> AsyncIterator[None]:
        """Warm up, sweep idle sessions while the service runs, and wait for its threads at the end."""
        for predictor in self.predictors.values():
            await asyncio.to_thread(predictor.warm_up)
        sweeper = asyncio.create_task(self._sweep())
        self.ready = True
        try:
            yield
        finally:
            self.stopping = True
            sweeper.cancel()
            await asyncio.to_thread(self.workers.stop)

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(_SWEEP_SECONDS)
            self.sessions.close_idle()

    def predictor(self, name: str | None) -> tuple[str, Predictor]:
        """A model by its name, the first when none is named.

        Raises:
            Refused: there is none of this name.
        """
        wanted = next(iter(self.predictors)) if name is None else name
        if wanted not in self.predictors:
            raise Refused(404, "not_found", f"this service runs the models {', '.join(self.predictors)}")
        return wanted, self.predictors[wanted]

    async def open(self, request: Request, model: str | None, choice: Choice) -> tuple[Session, Shown]:
        """Read the image that a request sends, encode it, and open a session for it.

        Raises:
            Refused: too many are sending images, or it is too large or too slow.
            ImageError: it is no image.
        """
        _, predictor = self.predictor(model)

        def opened(data: bytes, cancelled: Cancelled) -> tuple[Session, Shown]:
            upload = read_upload(data, choice, self.limits)
            session = Session(predictor, upload, self.workers.gate)
            session.look(cancelled)
            return session, upload.shown()

        session, levels = await self.upload(request, opened)
        self.sessions.add(session)
        self.metrics.observe_stages(session.timings)
        return session, levels

    async def upload(self, request: Request, job: Callable[[bytes, Cancelled], T]) -> T:
        """Do something with the file that a request sends.

        Raises:
            Refused: too many are sending files, or it is too slow.
        """
        if self._uploads >= self.limits.waiting:
            raise Refused(503, "busy", "too many images are coming in; ask again soon", {"Retry-After": "1"})
        self._uploads += 1
        try:
            # Whose turn it is not is not read either: its bytes stay with the sender.
            async with self._reading:
                data = await self._read(request)
                return await self.workers.bulk(request, lambda cancelled: job(data, cancelled))
        finally:
            self._uploads -= 1

    async def _read(self, request: Request) -> bytes:
        data = bytearray()
        try:
            async with asyncio.timeout(self.limits.upload_seconds):
                async for chunk in request.stream():
                    data += chunk
        except TimeoutError as error:
            raise Refused(
                408, "slow", f"expected the whole image within {self.limits.upload_seconds:g} s; send it again"
            ) from error
        except ClientDisconnect as error:
            raise CancelledError("the client is gone") from error
        return bytes(data)

    async def answer(
        self, request: Request, session: Session, bodies: Sequence[PromptBody], multimask: bool, zoom: bool | None
    ) -> list[Answer]:
        """Answer prompts, each about an object of the session, which it becomes the mask of.

        Raises:
            Refused: an answer to be corrected is not there, or a limit is reached.
            PromptError: a prompt is malformed; then none was answered.
        """
        self._check_counts(bodies)
        corrected = [session.answer(body.mask) if body.mask else None for body in bodies]
        prompts = [_prompt(body, former, session.spacing) for body, former in zip(bodies, corrected, strict=True)]

        def job(cancelled: Cancelled) -> tuple[list[tuple[Result, Prompt | None]], float]:
            start = time.perf_counter()
            found = session.ask(prompts, multimask=multimask, zoom=zoom, cancelled=cancelled)
            return found, (time.perf_counter() - start) * 1e3 / len(found)

        run = self.workers.prompt if len(prompts) == 1 else self.workers.bulk
        found, milliseconds = await run(request, job)
        answers = []
        for body, former, (result, prompt) in zip(bodies, corrected, found, strict=True):
            number = session.number_for(body.object, former, self.limits.objects)
            answers.append(session.add(number, result, prompt, milliseconds, self.limits))
            self.metrics.observe_stages(result.timings)
        self.sessions.make_room()
        return answers

    def _check_counts(self, bodies: Sequence[PromptBody]) -> None:
        most = self.limits
        if len(bodies) > most.batch:
            raise Refused(413, "too_large", f"expected at most {most.batch} prompts in a batch, got {len(bodies)}")
        if any(len(points or ()) > most.points for body in bodies for points in (body.points, body.points_mm)):
            raise Refused(413, "too_large", f"expected at most {most.points} points in a prompt")


def _prompt(body: PromptBody, former: Answer | None, spacing: Spacing | None) -> Prompt:
    """A prompt in pixels.

    Raises:
        Refused: it is in millimetres, and nobody knows how large a pixel is.
        PromptError: it is in pixels and in millimetres.
    """
    if spacing is None and (body.points_mm or body.box_mm):
        raise Refused(
            422,
            "spacing",
            "expected a prompt in pixels: the size of a pixel of this image is not known; PATCH the session with "
            '{"spacing": [x, y]} in mm, or open the image with ?spacing=',
        )
    points, box = prompt_pixels(spacing, body.points, body.box, body.points_mm, body.box_mm)
    return Prompt(points, body.labels, box, former.result if former else None)


# Not plain functions: those the framework would call in threads of its own, and sessions belong to the loop's.
async def _service(request: Request) -> Service:
    service: Service = request.app.state.service
    return service


Running = Annotated[Service, Depends(_service)]


async def _session(service: Running, session: str) -> Session:
    return service.sessions.find(session)


Opened = Annotated[Session, Depends(_session)]
