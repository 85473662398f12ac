"""The manifest of a bundle (format 1): everything about a model that a device has to know."""

from dataclasses import dataclass
from typing import Any, Final

from samsdk.auto import AutoPrompts
from samsdk.errors import BundleError
from samsdk.measuring.calibration import Calibration
from samsdk.tiers import Plan
from samsdk.transforms import Preprocessing
from samsdk.volumes.preprocessing import VolumePreprocessing
from samsdk.zoom import Zoom

FORMAT: Final = 1
# What a model does: segment what prompts point at, name each pixel's class without any prompt, prompt itself, or name
# each voxel's class of a volume.
TASKS: Final = ("promptable", "semantic", "auto", "volume")
PROMPTABLE, SEMANTIC, AUTO, VOLUME = TASKS
SINGLE_MASKS: Final = ("first", "best")


@dataclass(frozen=True)
class Manifest:
    """What `manifest.json` says. Fields that only people read (`licence`, `lineage`, `accuracy`) stay plain JSON.

    Attributes:
        name: of the model.
        version: of this bundle.
        task: `promptable`, `semantic`, `auto` or `volume`.
        preprocessing: geometry, intensity, normalisation and the kind of mask prompt; of a `volume` bundle, which takes
            no images, one that refuses them.
        volume: geometry and intensity of a `volume` bundle, None of others.
        embedding: name to shape without the batch axis, for each output of the encoder; `image_embeddings` is
            [C, E, E]. A volume bundle has none.
        prompt_kinds: the kinds that the decoder takes, out of `points`, `box`, `mask`; none of a semantic or a volume
            bundle.
        trained_kinds: the kinds that the weights were trained with; the others work, but badly.
        single_mask: which of the decoder's masks answers when one is asked for: the `first`, which SAM trains for that,
            or the `best` of the others by predicted quality, where the first was never trained (SAM-Med2D).
        mask_side: side of the decoder's logits and of its mask input.
        mask_threshold: logits above it are foreground.
        multimask_outputs: number of masks after the single one, for ambiguous prompts.
        zoom: how close a second look at the object should be; None where the model recommends none.
        auto: how an `auto` bundle prompts itself, None of others.
        calibration: what its scores are worth, by kind of prompt, see `samsdk.measuring.calibration`; without the kinds
            for which nothing is known.
        classes: number as text to name, for semantic and volume bundles; `0` is the background.
        flops: floating-point operations of `encoder` and `prompter` (one image), `decoder` (one prompt of two points),
            or `network` (one window of a volume).
        files: path within the bundle to {"sha256", "size"}.
        tiers: name to plans, see `samsdk.tiers`.
        parity: the certificate: tier, then backend, then its measurements and `passed`.
    """

    name: str
    version: str
    task: str
    preprocessing: Preprocessing
    volume: VolumePreprocessing | None
    embedding: dict[str, tuple[int, ...]]
    prompt_kinds: tuple[str, ...]
    trained_kinds: tuple[str, ...]
    single_mask: str
    mask_side: int
    mask_threshold: float
    multimask_outputs: int
    zoom: Zoom | None
    auto: AutoPrompts | None
    calibration: dict[str, Calibration]
    classes: dict[str, str]
    flops: dict[str, float]
    licence: dict[str, Any]
    lineage: dict[str, Any]
    files: dict[str, dict[str, Any]]
    tiers: dict[str, tuple[Plan, ...]]
    parity: dict[str, dict[str, Any]]
    accuracy: dict[str, Any]

    def plan(self, tier: str, backend: str, target: str | None = None) -> Plan:
        """How a backend runs a tier.

        Args:
            tier: e.g. `exact`.
            backend: e.g. `onnxruntime-cpu`, `openvino`.
            target: generation of the GPU, e.g. `sm86`, where the backend has one.

        Raises:
            BundleError: there is no such tier, or it has no plan for this backend.
        """
        if tier not in self.tiers:
            raise BundleError(f"bundle {self.name!r} has no tier {tier!r}; it has: {', '.join(self.tiers)}")
        for plan in self.tiers[tier]:
            if plan.runs_on(backend, target):
                return plan
        offered = ", ".join(" ".join((*plan.engines, *plan.targets)) for plan in self.tiers[tier])
        wanted = backend if target is None else f"{backend} on {target}"
        raise BundleError(f"tier {tier!r} of bundle {self.name!r} has no plan for {wanted}; it has: {offered}")
