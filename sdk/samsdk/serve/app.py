"""The application: routes, guard and page of one service, for any ASGI server."""

from collections.abc import Mapping
from importlib import resources
from importlib.metadata import version
from typing import Final

from fastapi import APIRouter, FastAPI, Response
from fastapi.responses import JSONResponse

from samsdk.predictor import Predictor
from samsdk.serve.file_routes import router as file_router
from samsdk.serve.guard import PAGE, Access, Guard
from samsdk.serve.limits import Limits
from samsdk.serve.metrics import MEDIA_TYPE
from samsdk.serve.problems import Refused, add_problem_handlers, documented
from samsdk.serve.routes import router
from samsdk.serve.schemas import ModelReply, ModelsReply, StateReply
from samsdk.serve.service import Running, Service

INTENDED_USE: Final = "For research use only. Not a medical device."
_TYPES: Final = {".html": "text/html", ".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}
_about = APIRouter(responses=documented())


def create_app(
    predictors: Mapping[str, Predictor],
    *,
    limits: Limits = Limits(),  # noqa: B008 (frozen)
    access: Access = Access(),  # noqa: B008 (frozen)
) -> FastAPI:
    """Make the application.

    Args:
        predictors: by name; the first is the default. All of them take prompts.
        limits: of the service.
        access: who may come in.

    Returns:
        The application, whose lifespan an ASGI server has to run; `app.state.service` is its `Service`.

    Raises:
        BundleError: there is no model, or one takes no prompts.
    """
    service = Service(predictors, limits)
    app = FastAPI(
        title="samsdk",
        version=version("samsdk"),
        description=f"Open an image once, prompt it as often as you like. {INTENDED_USE}",
        lifespan=service.running,
        # Their pages load scripts from elsewhere.
        docs_url=None,
        redoc_url=None,
    )
    app.state.service = service
    app.include_router(_about)
    app.include_router(router)
    app.include_router(file_router)
    app.include_router(_page())
    add_problem_handlers(app)
    app.add_middleware(
        Guard,
        access=access,
        limits=limits,
        stopping=lambda: service.stopping,
        observe=service.metrics.observe_request,
    )
    return app


@_about.get("/health", response_model=StateReply)
async def health() -> Response:
    """Whether the process lives."""
    return JSONResponse({"status": "ok"})


@_about.get("/ready", response_model=StateReply)
async def ready(service: Running) -> Response:
    """Whether it takes requests: not while it starts or stops."""
    if service.stopping or not service.ready:
        raise Refused(503, "stopping" if service.stopping else "starting", "not ready; ask again soon")
    return JSONResponse({"status": "ready"})


@_about.get("/models", response_model=ModelsReply)
async def models(service: Running) -> Response:
    """The models that the service runs."""
    found = [_model(name, predictor) for name, predictor in service.predictors.items()]
    reply = ModelsReply(models=found, samsdk=version("samsdk"), intended_use=INTENDED_USE)
    return JSONResponse(reply.model_dump())


@_about.get(
    "/metrics",
    response_class=Response,
    responses={200: {"description": "in Prometheus' text format", "content": {"text/plain": {}}}},
)
async def metrics(service: Running) -> Response:
    """Counts, sizes and times for a monitor."""
    return Response(service.metrics.text(), media_type=MEDIA_TYPE)


def _model(name: str, predictor: Predictor) -> ModelReply:
    manifest = predictor.manifest
    return ModelReply(
        name=name,
        version=manifest.version,
        bundle=predictor.bundle.identity,
        task=manifest.task,
        prompts=list(manifest.prompt_kinds),
        trained=list(manifest.trained_kinds),
        multimask=manifest.multimask_outputs,
        zoom=manifest.zoom is not None,
        provider=predictor.provider,
        tier=predictor.tier,
        licence=str(manifest.licence.get("id", "unknown")),
    )


def _page() -> APIRouter:
    """The page's files, read once: what is not among them does not exist, whatever a path says."""
    files = {
        file.name: (file.read_bytes(), _TYPES[file.name[file.name.rindex(".") :]])
        for file in (resources.files("samsdk.serve") / "page").iterdir()
        if file.name.endswith(tuple(_TYPES))
    }
    page = APIRouter(include_in_schema=False)

    @page.get("/")
    async def index() -> Response:
        content, media = files["index.html"]
        return Response(content, media_type=media)

    @page.get(PAGE + "{name}")
    async def file(name: str) -> Response:
        if name not in files:
            raise Refused(404, "not_found", "the page has no such file")
        content, media = files[name]
        return Response(content, media_type=media)

    return page
