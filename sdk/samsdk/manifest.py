"""The manifest of a bundle (format 1): everything about a model that a device has to know, checked when it is read."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from samsdk.auto import AutoPrompts
from samsdk.errors import BundleError
from samsdk.intensity import INTENSITY_RULES, NORMALISATION_RULES
from samsdk.prompts import PROMPT_KINDS
from samsdk.tiers import Plan, TierReader
from samsdk.transforms import BOX_ROUNDINGS, GEOMETRY_RULES, INTERPOLATIONS, MASK_PROMPTS, Preprocessing
from samsdk.zoom import Zoom

FORMAT: Final = 1
# What a model does: segment what prompts point at, name each pixel's class without any prompt, or prompt itself.
TASKS: Final = ("promptable", "semantic", "auto")
PROMPTABLE, SEMANTIC, AUTO = TASKS
SINGLE_MASKS: Final = ("first", "best")
# Label maps are of 8 bits, and 0 is the background.
_MOST_CLASSES: Final = 255
_MEASUREMENTS: Final = ("max_logit_difference", "mean_mask_iou")


@dataclass(frozen=True)
class Manifest:
    """What `manifest.json` says. Fields that only people read (`licence`, `lineage`, `accuracy`) stay plain JSON.

    Attributes:
        name: of the model.
        version: of this bundle.
        task: `promptable`, `semantic` or `auto`.
        preprocessing: geometry, intensity, normalisation and the kind of mask prompt.
        embedding: name to shape without the batch axis, for each output of the encoder; `image_embeddings` is
            [C, E, E].
        prompt_kinds: the kinds that the decoder takes, out of `points`, `box`, `mask`; none of a semantic bundle.
        trained_kinds: the kinds that the weights were trained with; the others work, but badly.
        single_mask: which of the decoder's masks answers when one is asked for: the `first`, which SAM trains for that,
            or the `best` of the others by predicted quality, where the first was never trained (SAM-Med2D).
        mask_side: side of the decoder's logits and of its mask input.
        mask_threshold: logits above it are foreground.
        multimask_outputs: number of masks after the single one, for ambiguous prompts.
        zoom: how close a second look at the object should be; None where the model recommends none.
        auto: how an `auto` bundle prompts itself, None of others.
        classes: number as text to name, for semantic bundles; `0` is the background.
        flops: floating-point operations of `encoder` and `prompter` (one image), `decoder` (one prompt of two points).
        files: path within the bundle to {"sha256", "size"}.
        tiers: name to plans, see `samsdk.tiers`.
        parity: the certificate: tier, then backend, then its measurements and `passed`.
    """

    name: str
    version: str
    task: str
    preprocessing: Preprocessing
    embedding: dict[str, tuple[int, ...]]
    prompt_kinds: tuple[str, ...]
    trained_kinds: tuple[str, ...]
    single_mask: str
    mask_side: int
    mask_threshold: float
    multimask_outputs: int
    zoom: Zoom | None
    auto: AutoPrompts | None
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


def read_manifest(text: bytes) -> Manifest:
    """Parse and check `manifest.json`.

    Raises:
        BundleError: not JSON, another format, or a list of everything that is missing or malformed.
    """
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BundleError(f"manifest.json is not JSON: {error}") from error
    if not isinstance(data, dict):
        raise BundleError(f"manifest.json must hold one JSON object, got {type(data).__name__}")
    if type(data.get("format")) is not int or data["format"] != FORMAT:
        raise BundleError(
            f"bundle format {data.get('format')!r} is unknown, this samsdk reads format {FORMAT}; "
            "export the model again or install the samsdk that wrote it"
        )
    return _Reader(data).manifest()


class _Reader:
    """Reads one field after the other and collects what is wrong, so that one error names everything."""

    def __init__(self, data: Mapping[str, Any]) -> None:
        self._data = data
        prompts = data.get("prompts")
        self._prompts: Mapping[str, Any] = prompts if isinstance(prompts, Mapping) else {}
        self._problems: list[str] = []

    def _get(self, path: str, kind: type | tuple[type, ...], allowed: tuple[str, ...] = ()) -> Any:
        value: Any = self._data
        for key in path.split("."):
            if not isinstance(value, Mapping) or key not in value:
                self._problems.append(f"{path} is missing")
                return None
            value = value[key]
        # bool is an int in Python, and never what a manifest means by a number.
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            self._problems.append(f"{path} has the wrong type: {value!r}")
            return None
        words = value if isinstance(value, list) else [value]
        unknown = [word for word in words if allowed and word not in allowed]
        if unknown:
            self._problems.append(f"{path} is {value!r}, expected: {', '.join(allowed)}")
            return None
        return value

    def _preprocessing(self) -> Preprocessing:
        return Preprocessing(
            input_size=self._count("geometry.input_size", 1),
            rule=self._get("geometry.rule", str, GEOMETRY_RULES),
            interpolation=self._get("geometry.interpolation", str, INTERPOLATIONS),
            box_rounding=self._get("geometry.box_rounding", str, BOX_ROUNDINGS),
            intensity=self._get("intensity.rule", str, INTENSITY_RULES),
            normalisation=self._get("normalisation.rule", str, NORMALISATION_RULES),
            mask_prompt=self._get("prompts.mask", str, MASK_PROMPTS),
        )

    def _files(self) -> dict[str, dict[str, Any]]:
        files: dict[str, dict[str, Any]] = self._get("files", dict) or {}
        for name, entry in files.items():
            if not isinstance(entry, dict) or not isinstance(entry.get("sha256"), str):
                self._problems.append(f"files.{name} has no sha256")
            if not is_safe_name(name):
                self._problems.append(f"files.{name} leads out of the bundle")
        return files

    def _tiers(self, files: Mapping[str, Any]) -> dict[str, tuple[Plan, ...]]:
        reader = TierReader(files, auto=self._data.get("task") == AUTO)
        tiers = reader.tiers(self._get("tiers", dict) or {})
        self._problems += reader.problems
        return tiers

    def _kinds(self, path: str) -> tuple[str, ...]:
        kinds = self._get(path, list, PROMPT_KINDS)
        if self._data.get("task") == SEMANTIC:
            if kinds:
                self._problems.append(f"{path} names {', '.join(kinds)}, but a semantic bundle takes no prompt")
        elif kinds == []:
            self._problems.append(f"{path} names no kind, expected some of: {', '.join(PROMPT_KINDS)}")
        return tuple(kinds or ())

    def _classes(self) -> dict[str, str]:
        classes: dict[str, str] = self._get("classes", dict) or {}
        self._problems += [
            f"classes.{number} must be a name, got {name!r}"
            for number, name in classes.items()
            if not isinstance(name, str)
        ]
        if self._data.get("task") == SEMANTIC:
            numbers = [str(number) for number in range(len(classes))]
            if list(classes) != numbers or not 2 <= len(numbers) <= _MOST_CLASSES + 1:
                self._problems.append(
                    f"classes must be numbered from 0, the background, to at most {_MOST_CLASSES}, got: "
                    f"{', '.join(classes)}"
                )
        return classes

    def _threshold(self) -> float:
        value = self._get("outputs.mask_threshold", (int, float))
        # Python reads NaN and Infinity as JSON numbers; with either, every mask would be empty or full.
        if value is not None and not -1e6 <= value <= 1e6:
            self._problems.append(f"outputs.mask_threshold must be a logit, between -1e6 and 1e6, got {value}")
            return 0.0
        return float(value or 0)

    def _zoom(self) -> Zoom | None:
        if self._prompts.get("zoom") is None:
            return None
        try:
            return Zoom(self._get("prompts.zoom.context", (int, float)), self._get("prompts.zoom.smallest", int))
        except (TypeError, ValueError) as error:
            self._problems.append(f"prompts.zoom is not valid: {error}")
            return None

    def _auto(self) -> AutoPrompts | None:
        if self._data.get("task") != AUTO:
            return None
        try:
            return AutoPrompts.of(self._prompts)
        except ValueError as error:
            self._problems.append(str(error))
            return None

    def _single_mask(self) -> str:
        if "single" not in self._prompts:
            return SINGLE_MASKS[0]
        return self._get("prompts.single", str, SINGLE_MASKS) or SINGLE_MASKS[0]

    def _count(self, path: str, least: int = 0) -> int:
        value = self._get(path, int)
        if value is not None and not least <= value <= 8192:
            self._problems.append(f"{path} must be between {least} and 8192, got {value}")
        return int(value or least)

    def _flops(self) -> dict[str, float]:
        counts: dict[str, float] = (self._get("flops", dict) if "flops" in self._data else None) or {}
        for name, count in counts.items():
            if isinstance(count, bool) or not isinstance(count, (int, float)):
                self._problems.append(f"flops.{name} must be a number of operations, got {count!r}")
        return dict(counts)

    def _parity(self) -> dict[str, dict[str, Any]]:
        parity: dict[str, dict[str, Any]] = self._get("parity", dict) or {}
        for tier, certificates in parity.items():
            measured = list(certificates.values()) if isinstance(certificates, dict) else [None]
            if not all(isinstance(one, dict) and _is_certificate(one) for one in measured):
                self._problems.append(
                    f"parity.{tier} must hold, for each backend, {', '.join(('passed', *_MEASUREMENTS))}"
                )
        return parity

    def _embedding(self) -> dict[str, tuple[int, ...]]:
        shapes = self._get("embedding", dict) or {}
        if not isinstance(shapes.get("image_embeddings"), list):
            self._problems.append("embedding.image_embeddings is missing")
        for name, shape in shapes.items():
            if not isinstance(shape, list) or not all(isinstance(side, int) and side > 0 for side in shape):
                self._problems.append(f"embedding.{name} must be a list of positive sides, got {shape!r}")
                return {}
        return {name: tuple(shape) for name, shape in shapes.items()}

    def manifest(self) -> Manifest:
        """The manifest, or one error that lists all problems."""
        files = self._files()
        manifest = Manifest(
            name=self._get("name", str),
            version=self._get("version", str),
            task=self._get("task", str, TASKS),
            preprocessing=self._preprocessing(),
            embedding=self._embedding(),
            prompt_kinds=self._kinds("prompts.kinds"),
            trained_kinds=self._kinds("prompts.trained"),
            single_mask=self._single_mask(),
            mask_side=self._count("outputs.mask_side", 1),
            mask_threshold=self._threshold(),
            multimask_outputs=self._count("outputs.multimask_outputs"),
            zoom=self._zoom(),
            auto=self._auto(),
            classes=self._classes(),
            flops=self._flops(),
            licence=self._get("licence", dict) or {},
            lineage=self._get("lineage", dict) or {},
            files=files,
            tiers=self._tiers(files),
            parity=self._parity(),
            accuracy=self._get("accuracy", dict) or {},
        )
        if manifest.single_mask == "best" and manifest.multimask_outputs == 0:
            self._problems.append("prompts.single is 'best', but outputs.multimask_outputs leaves no masks for it")
        if self._problems:
            raise BundleError("manifest.json is not a valid format 1 manifest: " + "; ".join(self._problems))
        return manifest


def is_safe_name(name: str) -> bool:
    """Whether a file name stays inside the bundle: relative, forward slashes, no `..`, no drive letter, no NUL."""
    parts = name.split("/")
    return not any(sign in name for sign in "\\:\0") and not any(part in ("", ".", "..") for part in parts)


def _is_certificate(measured: Mapping[str, Any]) -> bool:
    return isinstance(measured.get("passed"), bool) and all(
        isinstance(measured.get(name), (int, float)) for name in _MEASUREMENTS
    )
