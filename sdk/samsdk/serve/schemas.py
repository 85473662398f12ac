"""What comes in and goes out as JSON, checked field by field; OpenAPI is made of it."""

from typing import Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, Field

LARGEST_OBJECT: Final = 65535
"""Number of an object, at most: what a label map of 16 bits holds."""

Coordinate = Annotated[float, Field(allow_inf_nan=False, ge=-1e7, le=1e7)]
Point = Annotated[list[Coordinate], Field(min_length=2, max_length=2)]
ObjectNumber = Annotated[int, Field(ge=1, le=LARGEST_OBJECT)]
AnswerNumber = Annotated[int, Field(ge=1, le=2**53)]
Length = Annotated[float, Field(allow_inf_nan=False, gt=0, le=1000)]


MOST_VARIATIONS: Final = 32
Variations = Annotated[int, Field(ge=0, le=MOST_VARIATIONS)]
Part = Literal["rle", "polygons", "png", "measures"]
"""Parts of an answer that cost time: forms of the mask, and its measurements."""


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class PromptBody(_Body):
    """One prompt about one object, in pixels of the image as it was uploaded."""

    object: ObjectNumber | None = Field(
        None, description="number of the object; left out, that of the answer in `mask`, else a new one"
    )
    points: Annotated[list[Point], Field(min_length=1, max_length=1000)] | None = Field(
        None, description="(x, y) of each point", examples=[[[316, 400]]]
    )
    points_mm: Annotated[list[Point], Field(min_length=1, max_length=1000)] | None = Field(
        None,
        description="instead of `points`, (x, y) in mm from the image's upper left corner; where `spacing` is known",
    )
    labels: Annotated[list[Literal[0, 1]], Field(min_length=1, max_length=1000)] | None = Field(
        None, description="1 the object, 0 not the object, for each point; all 1 when left out"
    )
    box: Annotated[list[Coordinate], Field(min_length=4, max_length=4)] | None = Field(
        None, description="(x0, y0, x1, y1), x1 and y1 exclusive"
    )
    box_mm: Annotated[list[Coordinate], Field(min_length=4, max_length=4)] | None = Field(
        None, description="instead of `box`, in mm; where `spacing` is known"
    )
    mask: AnswerNumber | None = Field(None, description="number of an answer of this session, which is then corrected")


class _How(_Body):
    multimask: bool = Field(False, description="the masks for ambiguous prompts instead of the single one")
    zoom: bool | None = Field(None, description="look a second time at the object; null does what the model recommends")
    include: Annotated[list[Part], Field(max_length=4)] = Field(
        ["rle", "measures"], description="forms of the mask in the answer, and whether it is measured"
    )


class SinglePrompt(PromptBody, _How):
    """One prompt, and how it is to be answered."""

    variations: Variations = Field(
        0, description="how many prompts that are moved a little are answered, too, for the ranges of `measures`"
    )


class Batch(_How):
    """Many prompts, answered as a whole or not at all."""

    prompts: Annotated[list[PromptBody], Field(min_length=1, max_length=1000)]


class SessionChange(_Body):
    """What a user knows about an image and its file does not say."""

    spacing: Annotated[list[Length], Field(min_length=1, max_length=2)] | None = Field(
        description="side of a pixel in mm, or two (x, y); null where it is not known"
    )


class ObjectChange(_Body):
    """A name for an object."""

    name: Annotated[str, Field(min_length=1, max_length=100)]


class Measure(BaseModel):
    """One measured quantity, in pixels or in units of length, never mixed."""

    name: str = Field(examples=["area"])
    value: float
    unit: str = Field(examples=["px²", "mm"])
    range: list[float] | None = Field(
        None, description="with `variations`: ends between which 9 of 10 moved prompts give the value"
    )


class Stability(BaseModel):
    """How far a mask depends on where exactly somebody pointed."""

    agreement: float = Field(description="mean IoU of the mask with those of the moved prompts")
    variations: int = Field(description="how many prompts were moved")


class Rle(BaseModel):
    """COCO's compressed run-length encoding."""

    size: list[int] = Field(description="height, width")
    counts: str


class AnswerReply(BaseModel):
    """A mask."""

    answer: int = Field(description="number of this answer in its session")
    object: int
    score: float = Field(description="the model's own estimate of the mask's IoU")
    scores: list[float] = Field(description="of all masks, where several were asked for")
    confidence: float = Field(description="the IoU to be expected of the mask; the score where nothing else is known")
    size: list[int] = Field(description="height, width of the image")
    area: int = Field(description="pixels of the mask")
    box: list[int] | None = Field(description="tight box (x0, y0, x1, y1), x1 and y1 exclusive; null if it is empty")
    window: list[int] = Field(description="the part of the image that the model saw")
    measures: list[Measure] | None = Field(None, description="in pixels, and in mm where their size is known")
    stability: Stability | None = Field(None, description="with `variations`, of a mask that is measured")
    timings: dict[str, float] = Field(description="milliseconds; `total` is what the prompt took in all")
    provider: str
    model: str
    rle: Rle | None = None
    polygons: list[list[list[int]]] | None = Field(None, description="outer contours, (x, y) pixel centres")
    png: str | None = Field(None, description="PNG, 0 and 255, in base64")


class BatchReply(BaseModel):
    """Masks, in the order of the prompts."""

    answers: list[AnswerReply]


class ObjectReply(BaseModel):
    """An object as it is."""

    number: int
    name: str
    answer: AnswerReply | None = Field(description="null before the first answer and when all were undone")
    undo: int = Field(description="answers that can be undone")
    redo: int


class ShownReply(BaseModel):
    """How to show what `GET /sessions/{id}/image` gives: value = start + step * level."""

    size: list[int]
    channels: int
    bits: int
    start: float
    step: float
    least: float = Field(description="value of the image")
    greatest: float = Field(description="value of the image")
    low: float = Field(description="value to show black at first")
    high: float = Field(description="value to show white at first; below `low` where 0 is white")


class SessionReply(BaseModel):
    """An open image."""

    id: str
    size: list[int] = Field(description="height, width")
    spacing: list[float] | None = Field(description="(x, y) sides of a pixel in mm")
    frames: int = Field(description="that the file has; of a TIFF its pages")
    frame: int = Field(description="which of them this is, from 0 on")
    model: str
    formats: list[str] = Field(description="of files to download")
    dicom_formats: list[str] = Field(description="of DICOM files to ask for; none if the image came in another format")
    idle_seconds: float = Field(description="without a request, after which the session is closed")
    objects: list[ObjectReply]


class OpenedReply(SessionReply):
    """An image that was just opened."""

    shown: ShownReply
    timings: dict[str, float]


class ModelReply(BaseModel):
    """A model that the service runs."""

    name: str
    version: str
    bundle: str
    task: str
    prompts: list[str]
    trained: list[str] = Field(description="kinds of prompts that it was trained with; it understands others badly")
    multimask: int = Field(description="masks for an ambiguous prompt")
    zoom: bool = Field(description="whether it looks twice when left to itself")
    provider: str
    tier: str
    licence: str


class ModelsReply(BaseModel):
    """All models of the service, the one that is taken when none is named first."""

    models: list[ModelReply]
    samsdk: str
    intended_use: str


class StateReply(BaseModel):
    """Whether the service is well."""

    status: str
