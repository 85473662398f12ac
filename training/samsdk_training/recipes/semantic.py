"""Recipes `samed`, `samed_s` and `cheap_lunch`: a promptable base learns to name the class of each pixel.

SAMed (Zhang and Liu, 2023, https://github.com/hitachinsk/SAMed, MIT): low-rank pairs in the encoder, a decoder with a
mask for the background and one for each class, no prompt. Cheap Lunch (Feng et al., 2023): the same from a few slices,
whose objects are pasted on others, with points that name classes. Of the latter no code is published; what is not known
of it is a field here.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch

from samsdk.manifest import PROMPTABLE, SEMANTIC
from samsdk_training.checkpoints import Checkpoint
from samsdk_training.data_digest import set_digests
from samsdk_training.label_samples import LabelBatch, LabelSource
from samsdk_training.loop import LoopConfig
from samsdk_training.lora import LoraConfig
from samsdk_training.models.config import expect_fields
from samsdk_training.models.sam import Sam
from samsdk_training.models.sam_config import SamConfig
from samsdk_training.pictures import TurnAugmentation
from samsdk_training.recipes.semantic_data import SemanticData, read_semantic_data
from samsdk_training.recipes.semantic_loss import class_point_loss, semantic_loss
from samsdk_training.recipes.semantic_validation import per_class_validation, semantic_validation
from samsdk_training.recipes.tuned import TunedRun
from samsdk_training.resize import resize_config
from samsdk_training.synthesis import PRESETS, SynthesisConfig
from samsdk_training.tuning import Base, Tuning

ClassPoints = Literal["none", "joint", "per_class"]
_NAMES = ("samed", "samed_s", "cheap_lunch")
# All of the decoder but its transformer.
_HEAD = ("iou_token", "mask_tokens", "output_upscaling", "output_hypernetworks_mlps", "iou_prediction_head")


@dataclass(frozen=True)
class SemanticRecipe:
    """All that a run depends on, beside its base and its data. The defaults are SAMed's.

    Attributes:
        name: `samed`, `samed_s` or `cheap_lunch`.
        loop: steps, rates, precision. SAMed's are of 2,211 slices: 160 of 200 epochs of 93 steps.
        batch_size: images a micro-batch.
        rank: of the pairs.
        decoder: `whole` trains all of it; `lora` gives its transformer pairs, and trains the rest whole.
        image_size: side of the input in pixels; None takes the base's.
        ce_weight: of the cross entropy.
        dice_weight: of the Dice loss.
        augmentation: of each image.
        union: whether all labels, classes or instances, are one class.
        exemplars: how many annotated images, or slices, are used; None uses all.
        synthesis: what may happen to the exemplars' objects on other images; None takes the exemplars as they are.
        class_points: `none`; `joint`: one pass, all points with an embedding of their class each; `per_class`: a pass
            for each class, with plain points, which makes a promptable model instead of one that names classes.
        points: in each class.
        prompted: share of the batches that come with class points, of `joint`: the model has to answer without them
            too, since the bundle takes none.
        validation_cases: of each set's `val.txt`, the first so many images or volumes.
    """

    name: str = "samed"
    loop: LoopConfig = field(
        default_factory=lambda: LoopConfig(
            steps=14880,
            learning_rate=0.005,
            weight_decay=0.1,
            warmup_steps=250,
            decay="power",
            decay_steps=18600,
            clip_norm=None,
            validate_every=465,
            save_every=465,
            seed=1234,
        )
    )
    batch_size: int = 24
    rank: int = 4
    decoder: Literal["whole", "lora"] = "whole"
    image_size: int | None = None
    ce_weight: float = 0.2
    dice_weight: float = 0.8
    augmentation: TurnAugmentation = field(default_factory=TurnAugmentation)
    union: bool = False
    exemplars: int | None = None
    synthesis: SynthesisConfig | None = None
    class_points: ClassPoints = "none"
    points: int = 1
    prompted: float = 0.5
    validation_cases: int = 8

    def __post_init__(self) -> None:
        problems = []
        if self.name not in _NAMES:
            problems.append(f"recipe: expected one of {', '.join(_NAMES)}, got {self.name!r}")
        if self.decoder not in ("whole", "lora"):
            problems.append(f"decoder: expected whole or lora, got {self.decoder!r}")
        if self.class_points not in ("none", "joint", "per_class"):
            problems.append(f"class_points: expected none, joint or per_class, got {self.class_points!r}")
        for name in ("batch_size", "rank", "image_size", "exemplars", "points", "validation_cases"):
            value = getattr(self, name)
            if value is not None and (type(value) is not int or value < 1):
                problems.append(f"{name}: expected a whole number of at least 1, got {value!r}")
        if self.synthesis is not None and self.exemplars is None:
            problems.append("synthesis: needs a number of exemplars")
        if problems:
            raise ValueError("\n  ".join(["the recipe is not valid:", *problems]))

    @property
    def tuning(self) -> Tuning:
        """What of the model is trained, where its encoder has attention; see `Tuning.fitted`."""
        if self.decoder == "whole":
            return Tuning(LoraConfig(self.rank), ("prompt_encoder.*", "mask_decoder.*"))
        head = tuple(f"mask_decoder.{part}.*" for part in _HEAD)
        return Tuning(LoraConfig(self.rank, decoder="qv"), ("prompt_encoder.*", *head))

    def config(self, base: SamConfig, classes: int) -> SamConfig:
        """The shape of the model: the base's, with one more mask than there are classes.

        Raises:
            CheckpointError: The base cannot have this input size.
        """
        shape = resize_config(base, self.image_size)
        if self.class_points == "per_class":
            return shape
        decoder = replace(base.decoder, num_multimask_outputs=classes)
        return replace(shape, decoder=decoder, point_classes=classes if self.class_points == "joint" else 0)

    def to_dict(self) -> dict[str, Any]:
        """The recipe as JSON types."""
        plain = {
            "loop": self.loop.to_dict(),
            "augmentation": asdict(self.augmentation),
            "synthesis": self.synthesis and self.synthesis.to_dict(),
        }
        names = [name for name in self.__dataclass_fields__ if name not in ("name", *plain)]
        return {"recipe": self.name, **{name: getattr(self, name) for name in names}, **plain}

    @classmethod
    def from_dict(cls, values: object) -> "SemanticRecipe":
        """Rebuild a recipe from what `to_dict` returned.

        Raises:
            ValueError: A field is missing, unknown or not valid.
        """
        names = {"recipe", *cls.__dataclass_fields__} - {"name"}
        given = dict(expect_fields("recipe", values, names))
        synthesis = given["synthesis"]
        given |= {
            "name": given.pop("recipe"),
            "loop": LoopConfig.from_dict(given["loop"]),
            "augmentation": TurnAugmentation(**expect_fields("augmentation", given["augmentation"], _TURN_FIELDS)),
            "synthesis": None if synthesis is None else SynthesisConfig.from_dict(synthesis),
        }
        return cls(**given)


_TURN_FIELDS = set(TurnAugmentation.__dataclass_fields__)


def samed() -> SemanticRecipe:
    """SAMed: pairs in the encoder, the whole decoder."""
    return SemanticRecipe()


def samed_s() -> SemanticRecipe:
    """SAMed_s: pairs in the decoder's transformer too, which makes a third of the trained parameters."""
    return SemanticRecipe("samed_s", decoder="lora")


def cheap_lunch() -> SemanticRecipe:
    """Cheap Lunch: SAMed_s from 18 exemplars; its loss, and for what is not published SAMed's rates."""
    return SemanticRecipe(
        "cheap_lunch",
        batch_size=12,
        decoder="lora",
        ce_weight=1.0,
        exemplars=18,
        synthesis=PRESETS["organs"],
        class_points="joint",
    )


def train_semantic(
    recipe: SemanticRecipe,
    base: Base,
    sets: Sequence[Path],
    run: Path,
    *,
    licence: Mapping[str, Any],
    show_progress: bool = True,
) -> dict[str, Any]:
    """Train a semantic model, or go on with a run that was interrupted.

    Args:
        recipe: What to do.
        base: What to start from.
        sets: Folders with the same classes, each with `train.txt` and `val.txt`; the latter picks the best weights.
        run: The run's folder; `best/` becomes the merged checkpoint, `adapter/` what was learned.
        licence: Of the weights.
        show_progress: Whether to draw a progress bar on stderr.

    Returns:
        What `loop.fit` returns.

    Raises:
        DataError: A set is missing or malformed, or the sets name different classes.
        CheckpointError: The base cannot have this input size, or does not go with the recipe.
        TrainingError: The run belongs to another configuration, is in use, or the loss is not finite.
    """
    shape = SamConfig.from_dict(base.checkpoint.model)
    preprocessing = replace(
        base.checkpoint.preprocessing, input_size=recipe.image_size or base.checkpoint.preprocessing.input_size
    )
    data = read_semantic_data(
        sets, preprocessing.intensity, recipe.exemplars, recipe.synthesis, union=recipe.union, seed=recipe.loop.seed
    )
    classes = len(data.classes) - 1
    config = recipe.config(shape, classes)
    source = LabelSource(
        data.draw,
        preprocessing,
        recipe.augmentation,
        classes=classes,
        label_side=4 * config.encoder.embedding_side,
        points=recipe.points,
        seed=recipe.loop.seed,
    )
    facts = {**recipe.to_dict(), "sets": data.summary, "data_sha256": set_digests(sets)}
    description = _describe(recipe, base, config, data, licence)
    tuned = TunedRun(base, recipe.tuning.fitted(config), description, recipe.loop, facts)
    per_class = recipe.class_points == "per_class"
    validate = per_class_validation if per_class else semantic_validation

    def batch_of(number: int) -> LabelBatch:
        return source.batch(number, recipe.batch_size)

    def loss_of(model: Sam, batch: LabelBatch, generator: torch.Generator) -> dict[str, torch.Tensor]:
        weights = recipe.ce_weight, recipe.dice_weight
        if per_class:
            return class_point_loss(model, batch, *weights)
        prompted = recipe.class_points == "joint" and float(torch.rand((), generator=generator)) < recipe.prompted
        return semantic_loss(model, batch, *weights, prompted=prompted)

    return tuned.fit(
        tuned.start(),
        batch_of=batch_of,
        loss_of=loss_of,
        validate=validate(
            sets, description, data.classes, recipe.validation_cases, union=recipe.union, points=recipe.points
        ),
        run=run,
        show_progress=show_progress,
    )


def _describe(
    recipe: SemanticRecipe, base: Base, config: SamConfig, data: SemanticData, licence: Mapping[str, Any]
) -> Checkpoint:
    known = base.checkpoint
    described = replace(
        known,
        model=config.to_dict(),
        geometry={**known.geometry, "input_size": config.encoder.image_size},
        licence=dict(licence),
        lineage={},
        state={},
    )
    if recipe.class_points == "per_class":
        prompts = {**known.prompts, "kinds": ["points"], "trained": ["points"], "zoom": None}
        return replace(described, prompts=prompts, classes={}, task=PROMPTABLE)
    prompts = {"kinds": [], "trained": [], "mask": known.prompts["mask"]}
    return replace(described, prompts=prompts, classes=data.classes, task=SEMANTIC)
