"""A plan: everything that a shipped student is made of, in one JSON file that one command carries out.

The sets that may be used and how much of each, the teacher and the unlabelled images that it labels, and the stages of
the training, each of which starts from the last one's best weights. Derived data (slices of volumes, the teacher's
embeddings and masks) lies in the run's folder and is made once.
"""

import json
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import samsdk
from samsdk.transforms import Preprocessing
from samsdk_training.augment import Augmentation
from samsdk_training.checkpoints import JSON_FILE, load_checkpoint
from samsdk_training.data import LISTS, DataError, read_ids
from samsdk_training.distill import DistillRecipe, distill_embeddings
from samsdk_training.embedding_cache import cache_embeddings
from samsdk_training.evaluation import Segmenter
from samsdk_training.interaction import InteractionConfig
from samsdk_training.loop import LoopConfig
from samsdk_training.models.sam_config import SamConfig
from samsdk_training.pseudo_labels import PseudoLabelConfig, label_images
from samsdk_training.recipes.student import StudentRecipe, train_student
from samsdk_training.samples import SampleSet
from samsdk_training.slices import write_slices
from samsdk_training.torch_predictor import TorchPredictor

logger = logging.getLogger(__name__)
_KINDS = ("embeddings", "masks")
_IMAGES = (".jpg", ".jpeg", ".png")


@dataclass(frozen=True)
class Stage:
    """One run of training.

    Attributes:
        name: of its run folder.
        kind: `embeddings` fits the encoder to the teacher's; `masks` trains all of it with prompts.
        recipe: of a stage of masks; its loop and model are also those of a stage of embeddings.
        pseudo_labels: whether the teacher's masks are trained on too.
    """

    name: str
    kind: str
    recipe: StudentRecipe
    pseudo_labels: bool


@dataclass(frozen=True)
class StudentPlan:
    """What a plan file says.

    Attributes:
        sets: labelled sets by folder name: `volumes` (bool), `list`, `share`, `exclude`, `weight`, all optional.
        validation: folder names of the sets whose `val.txt` picks the best weights.
        teacher: `model` (a bundle, its name, or a checkpoint's folder), `images` (number by folder), `weight`.
        stages: in their order.
        licence: of the weights.
    """

    sets: Mapping[str, Mapping[str, Any]]
    validation: tuple[str, ...]
    teacher: Mapping[str, Any]
    stages: tuple[Stage, ...]
    licence: Mapping[str, Any]


def read_plan(path: Path) -> StudentPlan:
    """Read a plan and check all that can be checked before hours are spent on it.

    Raises:
        DataError: the file is no plan; the text says what is wrong.
    """
    try:
        content = json.loads(path.read_bytes())
        stages = tuple(_stage(content, one) for one in content["stages"])
        plan = StudentPlan(
            sets=dict(content["sets"]),
            validation=tuple(content["validation"]),
            teacher=dict(content.get("teacher", {})),
            stages=stages,
            licence=dict(content["licence"]),
        )
        for name, options in plan.sets.items():
            _sample_set(Path(name), options)
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise DataError(f"{path} is not a plan for a student: {type(error).__name__}: {error}") from error
    names = [stage.name for stage in plan.stages]
    if not names or len(set(names)) < len(names):
        raise DataError(f"{path}: expected at least one stage, each with a name of its own, got {names}")
    if not plan.teacher and any(stage.pseudo_labels or stage.kind == "embeddings" for stage in plan.stages):
        raise DataError(f"{path}: a stage needs a teacher, and the plan has none")
    return plan


def _stage(content: Mapping[str, Any], stage: Mapping[str, Any]) -> Stage:
    if stage["kind"] not in _KINDS:
        raise ValueError(f"kind of a stage: expected {' or '.join(_KINDS)}, got {stage['kind']!r}")
    recipe = StudentRecipe(
        loop=LoopConfig.from_dict(stage["loop"]),
        model=SamConfig.from_dict(content["model"]),
        interaction=InteractionConfig(**{**content.get("interaction", {}), **stage.get("interaction", {})}),
        augmentation=Augmentation.from_dict({**content.get("augmentation", {}), **stage.get("augmentation", {})}),
    )
    recipe = replace(recipe, batch_size=stage.get("batch_size", recipe.batch_size))
    return Stage(stage["name"], stage["kind"], recipe, bool(stage.get("pseudo_labels", False)))


def _sample_set(folder: Path, options: Mapping[str, Any]) -> SampleSet:
    unknown = sorted(options.keys() - {"volumes", "list", "share", "exclude", "weight"})
    if unknown:
        raise ValueError(f"{folder.name}: unknown options {', '.join(unknown)}")
    first, last = options.get("share", (0.0, 1.0))
    return SampleSet(
        folder,
        options.get("list", "train.txt"),
        float(options.get("weight", 1.0)),
        (float(first), float(last)),
        tuple(options.get("exclude", ())),
    )


def run_plan(plan: StudentPlan, data: Path, run: Path, *, show_progress: bool = True) -> Path:
    """Carry out a plan, or go on where it was interrupted.

    Args:
        plan: what to do.
        data: the folder that holds the plan's sets and unlabelled images.
        run: the run's folder: `data/` for what is derived, and a run folder for each stage.
        show_progress: whether to draw progress bars on stderr.

    Returns:
        The folder of the last stage's best checkpoint.

    Raises:
        DataError, TrainingError, CheckpointError: as the stages' own functions.
    """
    sets = list(labelled_sets(plan, data, run / "data"))
    best: Path | None = None
    for stage in plan.stages:
        folder = run / stage.name
        if stage.kind == "embeddings":
            _distill(plan, stage, data, run / "data", folder, show_progress)
        else:
            more = list(_pseudo_labelled(plan, data, run / "data")) if stage.pseudo_labels else []
            train_student(
                stage.recipe,
                [*sets, *more],
                [data / name for name in plan.validation],
                folder,
                licence=plan.licence,
                start=best,
                show_progress=show_progress,
            )
        best = folder / "best"
    if best is None:
        raise DataError("the plan has no stage")
    return best


def labelled_sets(plan: StudentPlan, data: Path, derived: Path) -> Iterator[SampleSet]:
    """The plan's labelled sets in `data`; volumes as slices, made in `derived` where they are not there yet."""
    for name, options in plan.sets.items():
        folder = data / name
        if options.get("volumes"):
            folder = derived / name
            if not folder.exists():
                logger.info("%s: %d slices", name, write_slices(data / name, folder))
        yield _sample_set(folder, options)


def _pseudo_labelled(plan: StudentPlan, data: Path, derived: Path) -> Iterator[SampleSet]:
    teacher, _ = _teacher(plan)
    for source in plan.teacher["images"]:
        folder = derived / f"teacher_{Path(source).name}"
        summary = label_images(teacher, _unlabelled(plan, data, source), folder, PseudoLabelConfig())
        logger.info("%s: %d objects in %d of %d images", source, summary.objects, summary.labelled, summary.images)
        if summary.objects:
            yield SampleSet(folder, weight=float(plan.teacher.get("weight", 1.0)))


def _distill(plan: StudentPlan, stage: Stage, data: Path, derived: Path, run: Path, show_progress: bool) -> None:
    images = [image for source in plan.teacher["images"] for image in _unlabelled(plan, data, source)]
    cache = derived / "embeddings"
    teacher, preprocessing = _teacher(plan)
    cache_embeddings(teacher, images, cache, preprocessing)
    recipe = DistillRecipe(stage.recipe.loop, stage.recipe.model, batch_size=stage.recipe.batch_size)
    distill_embeddings(recipe, images, cache, run, licence=plan.licence, show_progress=show_progress)


def _unlabelled(plan: StudentPlan, data: Path, source: str) -> list[tuple[str, Path]]:
    """Images spread evenly over a folder, without those that a labelled set has: some of them are kept back."""
    known = {
        one
        for name in plan.sets
        for list_name in LISTS
        if (data / name / list_name).is_file()
        for one in read_ids(data / name, list_name)
    }
    files = sorted(path for path in (data / source).iterdir() if path.suffix in _IMAGES and _id(path) not in known)
    count = min(int(plan.teacher["images"][source]), len(files))
    return [(path.stem, path) for path in (files[len(files) * index // count] for index in range(count))]


def _id(path: Path) -> str:
    # The unlabelled images' ids are those of their source, after the part that they came from.
    return path.stem.removeprefix("te_").removeprefix("tr_")


def _teacher(plan: StudentPlan) -> tuple[Segmenter, Preprocessing]:
    model = str(plan.teacher["model"])
    if not (Path(model) / JSON_FILE).is_file():
        predictor = samsdk.load(model)
        return predictor, predictor.manifest.preprocessing
    checkpoint = load_checkpoint(Path(model))
    return TorchPredictor(checkpoint.build(), checkpoint.preprocessing, name=Path(model).name), checkpoint.preprocessing
