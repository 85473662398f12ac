"""What a run of `autoprosam` or `swin_unetr` depends on, beside its base and its data."""

from dataclasses import asdict, dataclass, field, replace
from typing import Any

from samsdk.volumes.intensity import VoxelIntensity
from samsdk.volumes.preprocessing import VolumePreprocessing
from samsdk_training.loop_config import LoopConfig
from samsdk_training.models.auto_pro_sam_config import AutoProSamConfig
from samsdk_training.models.config import expect_fields
from samsdk_training.models.swin_unetr import SwinUnetrConfig
from samsdk_training.models.volume import VolumeConfig, volume_config_from_dict
from samsdk_training.volume_samples import VolumeAugmentation

# Of probabilities after the softmax, or of logits.
SPACES = ("probabilities", "logits")
AUTOPROSAM, SWIN_UNETR = "autoprosam", "swin_unetr"
_MODELS: dict[str, type[VolumeConfig]] = {AUTOPROSAM: AutoProSamConfig, SWIN_UNETR: SwinUnetrConfig}
# Clipped, less the mean, by the standard deviation: AutoProSAM's numbers for AMOS, in Hounsfield units.
_AMOS = VoxelIntensity("window_zscore", -991.0, 362.0, 50.0, 141.0)
# 400 epochs of 200 volumes, of which 5 warm up; encoder, generator and decoder are clipped apart.
_EPOCH = 200
_LOOP = LoopConfig(
    steps=400 * _EPOCH,
    learning_rate=5e-4,
    weight_decay=0.0,
    warmup_steps=5 * _EPOCH,
    warmup="exponential",
    decay="polynomial",
    epoch_steps=_EPOCH,
    clip_groups=("image_encoder.*", "prompt_generator.*", "mask_decoder.*"),
    validate_every=10 * _EPOCH,
    save_every=10 * _EPOCH,
)


@dataclass(frozen=True)
class Distillation:
    """What a student learns of its teacher.

    Attributes:
        teacher: folder of its checkpoint, of the same classes, crop and intensities.
        weight: w of `(1 - w) L(student, truth) + w MSE(student, teacher)`.
        space: of the squared error, `probabilities` or `logits`; which of them was published is not known.
    """

    teacher: str
    weight: float = 0.5
    space: str = SPACES[0]

    def __post_init__(self) -> None:
        if isinstance(self.weight, bool) or not isinstance(self.weight, int | float) or not 0 <= self.weight <= 1:
            raise ValueError(f"kd: weight: expected a number from 0 to 1, got {self.weight!r}")
        if self.space not in SPACES:
            raise ValueError(f"kd: space: expected one of {', '.join(SPACES)}, got {self.space!r}")


@dataclass(frozen=True)
class VolumeRecipe:
    """All that a run depends on, beside its base and its data. The defaults are AutoProSAM's for AMOS.

    Attributes:
        name: `autoprosam` or `swin_unetr`.
        model: its shape; the number of classes is taken from the sets, and an AutoProSAM's ViT from the base, if any.
        loop: steps, rates, precision. The published are 400 epochs of 200 volumes.
        batch_size: crops a micro-batch.
        dice_weight: of the Dice loss.
        ce_weight: of the cross entropy.
        background: whether the background counts as a class of the Dice loss.
        balance: how often a crop has a labelled voxel in its middle, and how often another, as two weights.
        augmentation: of each crop.
        intensity: how voxels are scaled.
        spacing: (z, y, x) in mm that volumes are resampled to; None leaves them as the files have them.
        orientation: `RAS`, or None to leave volumes as the files have them.
        overlap: of neighbouring windows, on whole volumes.
        blending: of windows, `gaussian` or `constant`.
        kd: the teacher and how it is learned from; None learns from the truth alone.
        validation_cases: of each set's `val.txt`, the first so many volumes; they are held in memory.
        cached_volumes: how many of the volumes that are trained on are held in memory.
        union: whether all labels are one class.
    """

    name: str = AUTOPROSAM
    model: VolumeConfig = field(default_factory=AutoProSamConfig)
    loop: LoopConfig = _LOOP
    batch_size: int = 1
    dice_weight: float = 0.5
    ce_weight: float = 0.5
    background: bool = True
    balance: tuple[float, float] = (2.0, 1.0)
    augmentation: VolumeAugmentation = field(default_factory=VolumeAugmentation)
    intensity: VoxelIntensity = _AMOS
    spacing: tuple[float, float, float] | None = (2.0, 2.0, 2.0)
    orientation: str | None = "RAS"
    overlap: float = 0.5
    blending: str = "gaussian"
    kd: Distillation | None = None
    validation_cases: int = 8
    cached_volumes: int = 64
    union: bool = False

    def __post_init__(self) -> None:
        problems = []
        if not isinstance(self.model, _MODELS.get(self.name, ())):
            problems.append(f"recipe: expected one of {', '.join(_MODELS)} with a model of its own, got {self.name!r}")
        for name in ("batch_size", "validation_cases", "cached_volumes"):
            value = getattr(self, name)
            if type(value) is not int or value < 1:
                problems.append(f"{name}: expected a whole number of at least 1, got {value!r}")
        if type(self.union) is not bool:
            problems.append(f"union: expected true or false, got {self.union!r}")
        if len(self.balance) != 2 or min(self.balance) < 0 or not sum(self.balance):
            problems.append(f"balance: expected two weights, not both 0, got {list(self.balance)}")
        if problems:
            raise ValueError("\n  ".join(["the recipe is not valid:", *problems]))

    @property
    def preprocessing(self) -> VolumePreprocessing:
        """How a volume becomes what the network sees.

        Raises:
            ValueError: The numbers are not valid.
        """
        depth, height, width = self.model.crop
        return VolumePreprocessing(
            (depth, height, width), self.intensity, self.spacing, self.orientation, self.overlap, self.blending
        )

    def to_dict(self) -> dict[str, Any]:
        """The recipe as JSON types."""
        written = {
            "model": self.model.to_dict(),
            "loop": self.loop.to_dict(),
            "augmentation": asdict(self.augmentation),
            "intensity": asdict(self.intensity),
            "balance": list(self.balance),
            "spacing": None if self.spacing is None else list(self.spacing),
            "kd": None if self.kd is None else asdict(self.kd),
        }
        names = [name for name in self.__dataclass_fields__ if name not in ("name", *written)]
        return {"recipe": self.name, **{name: getattr(self, name) for name in names}, **written}

    @classmethod
    def from_dict(cls, values: object) -> "VolumeRecipe":
        """Rebuild a recipe from what `to_dict` returned.

        Raises:
            ValueError: A field is missing, unknown or not valid.
        """
        given = dict(expect_fields("recipe", values, {"recipe", *cls.__dataclass_fields__} - {"name"}))
        turns = expect_fields("augmentation", given["augmentation"], set(VolumeAugmentation.__dataclass_fields__))
        taught = set(Distillation.__dataclass_fields__)
        kd = given["kd"] and expect_fields("kd", given["kd"], taught, taught - {"teacher"})
        given |= {
            "name": given.pop("recipe"),
            "model": volume_config_from_dict(given["model"]),
            "loop": LoopConfig.from_dict(given["loop"]),
            "augmentation": VolumeAugmentation(**turns),
            "intensity": VoxelIntensity.of(given["intensity"]),
            "balance": tuple(given["balance"]),
            "spacing": None if given["spacing"] is None else tuple(given["spacing"]),
            "kd": None if kd is None else Distillation(**kd),
        }
        recipe = cls(**given)
        # What else is not valid shall be said before the data is read.
        _ = recipe.preprocessing
        return recipe


def autoprosam() -> VolumeRecipe:
    """AutoProSAM: a ViT turned to volumes."""
    return VolumeRecipe()


def swin_unetr() -> VolumeRecipe:
    """SwinUNETR, small, which learns from the truth and, with `kd`, from an AutoProSAM; all of it clipped together."""
    return VolumeRecipe(SWIN_UNETR, SwinUnetrConfig((128, 128, 128), 16, 24), replace(_LOOP, clip_groups=()))
