"""Evaluation: how good masks are on labelled images, for bundles and checkpoints by the same code.

`objects` prompts for each object as a simulated user would, `cases` asks models that answer for a whole image, to which
`guidance` adds points; `measures` says what is measured, and `summary` makes means with intervals of it. Nothing here
needs torch but the distances between surfaces, nor scipy but the measures of instances.
"""

from samsdk_training.evaluation.cases import CaseScores, VolumeSegmenter, class_cases, foreground_cases, volume_cases
from samsdk_training.evaluation.guidance import ClassSegmenter, PassPerClass
from samsdk_training.evaluation.measures import Measures
from samsdk_training.evaluation.objects import (
    BOX,
    NO_PROMPT,
    PROMPTS,
    ObjectScores,
    Segmenter,
    answering,
    evaluate_images,
    point_count,
)
from samsdk_training.evaluation.summary import calibration, intervals, summarise, summarise_cases

__all__ = [
    "BOX",
    "NO_PROMPT",
    "PROMPTS",
    "CaseScores",
    "ClassSegmenter",
    "Measures",
    "ObjectScores",
    "PassPerClass",
    "Segmenter",
    "VolumeSegmenter",
    "answering",
    "calibration",
    "class_cases",
    "evaluate_images",
    "foreground_cases",
    "intervals",
    "point_count",
    "summarise",
    "summarise_cases",
    "volume_cases",
]
