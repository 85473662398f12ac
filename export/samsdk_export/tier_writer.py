"""Adding tiers to a bundle that is being written: finding their plans, and proving each on every backend at hand."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from samsdk.backends import available_devices, backend_name
from samsdk.backends.tensorrt_library import import_library
from samsdk.bundle import Bundle
from samsdk.bundle_staging import write_manifest
from samsdk.manifest import AUTO, VOLUME
from samsdk_export.calibration import CalibrationError, CalibrationSets, Reference, what_counts
from samsdk_export.engine_writer import add_engines
from samsdk_export.manifest_writer import plan_entry
from samsdk_export.onnx_export import ExportError
from samsdk_export.parity import ParityError, certify
from samsdk_export.precision import BACKEND, DEVICE, Probe, find_plan, measure_layers
from samsdk_export.tensorrt import plan_engines

EXACT = "exact"
LOWER = ("balanced", "fast")
Progress = Callable[[str], None]


@dataclass(frozen=True)
class TierRequest:
    """What export was asked for beside full precision.

    Attributes:
        tiers: some of `balanced` and `fast`. One for which no layer may be lowered within its bound is left out, with a
            line of progress.
        calibration: labelled sets, which lower tiers need; every tier's Dice is then measured on them.
        targets: GPU generations (`sm86`) to build TensorRT-RTX engines for.

    Raises:
        ExportError: a tier or a target is unknown.
        CalibrationError: there are tiers, and nothing to calibrate them with.
    """

    tiers: tuple[str, ...] = ()
    calibration: CalibrationSets | None = None
    targets: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        unknown = [tier for tier in self.tiers if tier not in LOWER]
        if unknown:
            raise ExportError(f"unknown tiers {', '.join(unknown)}, expected some of: {', '.join(LOWER)}")
        if self.tiers and self.calibration is None:
            raise CalibrationError(f"tiers {', '.join(self.tiers)} need calibration sets: folders of labelled images")
        if self.targets:
            plan_engines(self.targets)

    def require(self, task: str) -> None:
        """Check that what it takes is there, before an hour's work instead of after it.

        Args:
            task: the checkpoint's.

        Raises:
            ExportError: engines of a model that prompts itself; lower tiers of one for volumes.
            MissingExtraError: lower tiers need OpenVINO, engines TensorRT-RTX.
            CalibrationError, DataError: a calibration set cannot be used.
        """
        if task == VOLUME and (self.tiers or self.calibration is not None):
            raise ExportError(
                f"a model for volumes is exported in full precision, {EXACT}: leave the tiers and calibration sets out"
            )
        if self.calibration is not None:
            for folder in self.calibration.folders:
                self.calibration.read(folder)
        if self.tiers:
            backend_name(DEVICE)
        if self.targets and task == AUTO:
            raise ExportError(
                "TensorRT-RTX engines take up to 16 tokens in a prompt, a model that prompts itself gives more: leave "
                "the targets out"
            )
        if self.targets:
            import_library("tensorrt_rtx", "building engines")


def add_tiers(
    path: Path, manifest: dict[str, Any], request: TierRequest, reference: Reference | None, progress: Progress
) -> None:
    """Prove the full precision, and find and prove the lower ones; the manifest on disk is complete afterwards.

    Args:
        path: `manifest.json` in a staging folder whose other files are all there.
        manifest: its content, without certificates; changed in place.
        request: what to add; a lower tier that cannot be had is left out, with a line of progress.
        reference: the checkpoint's Dice on the calibration sets.
        progress: called with a line before each step.

    Raises:
        ParityError: full precision is not within its bounds.
        MissingExtraError: engines need TensorRT-RTX, lower tiers OpenVINO, which is not installed.
    """
    write_manifest(path, manifest)
    for device in certified_devices():
        _prove(path, manifest, EXACT, device, request.calibration, reference, progress)
    if request.tiers and request.calibration is not None and reference is not None:
        _add_lower(path, manifest, request.tiers, request.calibration, reference, progress)
    if request.targets:
        add_engines(path.parent, manifest, request.targets, progress)
        write_manifest(path, manifest)


def _add_lower(
    path: Path,
    manifest: dict[str, Any],
    tiers: Sequence[str],
    calibration: CalibrationSets,
    reference: Reference,
    progress: Progress,
) -> None:
    bundle = Bundle.open(path.parent)
    plan = bundle.manifest.plan(EXACT, BACKEND)
    kinds, _ = what_counts(bundle.manifest.task, bundle.manifest.trained_kinds, bundle.manifest.classes)
    probe = Probe(bundle, plan, calibration, kinds)
    layers = measure_layers(bundle, plan, probe, progress)
    for tier in tiers:
        found = find_plan(bundle, plan, tier, layers, calibration, reference, progress)
        if found is None:
            progress(f"{tier}: left out, no layer may be lowered within its bound")
            continue
        manifest["tiers"][tier] = [plan_entry(found.plan)]
        write_manifest(path, manifest)
        try:
            _prove(path, manifest, tier, DEVICE, calibration, reference, progress)
        except ParityError as error:
            # The bundle is whole without it, and hours of search for the other tiers are not lost.
            progress(f"{tier}: left out, its plan does not hold in a fresh process: {error}")
            del manifest["tiers"][tier]
            write_manifest(path, manifest)


def certified_devices() -> list[str]:
    """What export proves a bundle on: the CPU backends that are installed; doctor proves it on GPUs, where they are."""
    return [device for device in available_devices() if device in ("cpu", "openvino")]


def _prove(
    path: Path,
    manifest: dict[str, Any],
    tier: str,
    device: str,
    calibration: CalibrationSets | None,
    reference: Reference | None,
    progress: Progress,
) -> None:
    progress(f"checking parity of tier {tier} on {device} in a fresh process")
    certificate = certify(path.parent, tier, device, calibration, reference)
    manifest["parity"].setdefault(tier, {})[backend_name(device)] = certificate
    write_manifest(path, manifest)
