"""Reading a bundle's manifest: every field checked, and everything that is wrong named in one error."""

import json
from collections.abc import Mapping
from typing import Any, Final

from samsdk.auto import AutoPrompts
from samsdk.errors import BundleError
from samsdk.intensity import INTENSITY_RULES, NORMALISATION_RULES
from samsdk.manifest import AUTO, FORMAT, PROMPTABLE, SEMANTIC, SINGLE_MASKS, TASKS, VOLUME, Manifest
from samsdk.measuring.calibration import KINDS, Calibration
from samsdk.prompts import PROMPT_KINDS
from samsdk.tiers import IMAGE_PARTS, PROMPTED_PARTS, VOLUME_PARTS, Plan, TierReader
from samsdk.transforms import BOX_ROUNDINGS, GEOMETRY_RULES, INTERPOLATIONS, MASK_PROMPTS, Preprocessing
from samsdk.volumes.preprocessing import NO_IMAGES, NO_NORMALISATION, VolumePreprocessing
from samsdk.zoom import Zoom

# Label maps of images are of 8 bits, those of volumes of up to 16, and 0 is the background.
_MOST_CLASSES: Final = {SEMANTIC: 2**8 - 1, VOLUME: 2**16 - 1}
_MEASUREMENTS: Final = ("max_logit_difference", "mean_mask_iou")


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
        self._takes_volumes = data.get("task") == VOLUME
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

    def _volume(self) -> VolumePreprocessing | None:
        if not self._takes_volumes:
            return None
        rules = self._get("geometry", dict), self._get("intensity", dict)
        self._get("normalisation.rule", str, (NO_NORMALISATION,))
        if None in rules:
            return None
        try:
            return VolumePreprocessing.of(*rules)
        except (ValueError, TypeError) as error:
            self._problems.append(str(error))
            return None

    def _files(self) -> dict[str, dict[str, Any]]:
        files: dict[str, dict[str, Any]] = self._get("files", dict) or {}
        for name, entry in files.items():
            if not isinstance(entry, dict) or not isinstance(entry.get("sha256"), str):
                self._problems.append(f"files.{name} has no sha256")
            if not is_safe_name(name):
                self._problems.append(f"files.{name} leads out of the bundle")
        return files

    def _tiers(self, files: Mapping[str, Any]) -> dict[str, tuple[Plan, ...]]:
        parts = {AUTO: PROMPTED_PARTS, VOLUME: VOLUME_PARTS}.get(str(self._data.get("task")), IMAGE_PARTS)
        reader = TierReader(files, parts)
        tiers = reader.tiers(self._get("tiers", dict) or {})
        self._problems += reader.problems
        return tiers

    def _kinds(self, path: str) -> tuple[str, ...]:
        kinds = self._get(path, list, PROMPT_KINDS)
        task = self._data.get("task")
        if task in (SEMANTIC, VOLUME):
            if kinds:
                self._problems.append(f"{path} names {', '.join(kinds)}, but a {task} bundle takes no prompt")
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
        most = _MOST_CLASSES.get(str(self._data.get("task")))
        if most is not None:
            numbers = [str(number) for number in range(len(classes))]
            if list(classes) != numbers or not 2 <= len(numbers) <= most + 1:
                self._problems.append(
                    f"classes must be numbered from 0, the background, to at most {most}, got: {', '.join(classes)}"
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

    def _calibration(self) -> dict[str, Calibration]:
        tables: dict[str, Any] = (self._get("calibration", dict) if "calibration" in self._data else None) or {}
        if tables and self._data.get("task") != PROMPTABLE:
            self._problems.append(f"calibration is for {PROMPTABLE} bundles, this one is {self._data.get('task')}")
        found = {}
        for kind, values in tables.items():
            try:
                if kind not in KINDS:
                    raise ValueError(f"there is no such kind of prompt, expected: {', '.join(KINDS)}")
                found[kind] = Calibration.from_dict(values)
            except (ValueError, OverflowError) as error:
                self._problems.append(f"calibration.{kind} is not valid: {error}")
        return found

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
        if self._takes_volumes:
            return {}
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
        files, images = self._files(), not self._takes_volumes
        manifest = Manifest(
            name=self._get("name", str),
            version=self._get("version", str),
            task=self._get("task", str, TASKS),
            preprocessing=NO_IMAGES if self._takes_volumes else self._preprocessing(),
            volume=self._volume(),
            embedding=self._embedding(),
            prompt_kinds=self._kinds("prompts.kinds"),
            trained_kinds=self._kinds("prompts.trained"),
            single_mask=self._single_mask(),
            mask_side=self._count("outputs.mask_side", 1) if images else 0,
            mask_threshold=self._threshold() if images else 0.0,
            multimask_outputs=self._count("outputs.multimask_outputs") if images else 0,
            zoom=self._zoom(),
            auto=self._auto(),
            calibration=self._calibration(),
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
