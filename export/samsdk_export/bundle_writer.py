"""Writing a bundle: everything into a staging folder, proved there, then renamed into place."""

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from samsdk.bundle import GOLDEN, MANIFEST
from samsdk.bundle_staging import staged_bundle
from samsdk.golden import write_golden
from samsdk.golden_points import GOLDEN_POINTS, write_golden_points
from samsdk.manifest import AUTO, FORMAT, SEMANTIC, VOLUME
from samsdk_export.calibration import CalibrationSets, Reference, what_counts
from samsdk_export.flops import count_flops
from samsdk_export.goldens import golden_answers, golden_images, golden_points, semantic_answers
from samsdk_export.graphs import embedding_shapes
from samsdk_export.manifest_writer import exporter, file_entry
from samsdk_export.model_card import CARD, model_card
from samsdk_export.onnx_export import export_decoder, export_encoder, export_semantic_decoder, rewrites_for
from samsdk_export.prompter import export_prompter
from samsdk_export.tier_writer import Progress, TierRequest, add_tiers
from samsdk_export.volume_bundle import fill_volume_bundle
from samsdk_training.checkpoints import Checkpoint
from samsdk_training.models.sam import Sam
from samsdk_training.torch_predictor import TorchPredictor

ENCODER = "encoder.onnx"
DECODER = "decoder.onnx"
PROMPTER = "prompter.onnx"
TIER = "exact"


def write_bundle(
    checkpoint: Checkpoint,
    destination: str | os.PathLike[str],
    *,
    name: str,
    bundle_version: str = "1",
    request: TierRequest = TierRequest(),  # noqa: B008 (frozen)
    accuracy: Mapping[str, Any] | None = None,
    progress: Callable[[str], None] = lambda line: None,
) -> Path:
    """Export a checkpoint to a bundle, which is there only if its parity check passed.

    Args:
        checkpoint: the model and all that belongs to it.
        destination: a folder, or a file that ends in `.samsdk`. A bundle that is there already is replaced at the very
            end; anything else that is there is left alone.
        name: the model's name.
        bundle_version: of this bundle.
        request: tiers and engines beside full precision on ONNX Runtime and OpenVINO.
        accuracy: what `samsdk evaluate --json` measured with these weights, for manifest and model card.
        progress: called with a line before each step.

    Returns:
        The destination.

    Raises:
        ExportError: a graph breaks the contract, or engines were asked for that cannot be built of such a model.
        ParityError: the bundle does not compute what the checkpoint computes.
        CalibrationError, DataError: the calibration sets cannot be used.
        MissingExtraError: lower tiers need OpenVINO, engines TensorRT-RTX, which is not installed.
        OutputError: the destination cannot be written, or is something else than a bundle.
    """
    request.require(checkpoint.task)
    about = {"name": name, "version": bundle_version, "accuracy": dict(accuracy or {})}
    # Before it is replaced: then "." leads nowhere.
    target = Path(destination).resolve()
    with staged_bundle(target) as staging:
        _fill(staging, checkpoint, about, request, progress)
        progress("moving the bundle into place")
    return target


def _fill(
    staging: Path, checkpoint: Checkpoint, about: Mapping[str, Any], request: TierRequest, progress: Progress
) -> None:
    if checkpoint.task == VOLUME:
        fill_volume_bundle(staging, checkpoint, about, request, progress)
        return
    progress("building the model")
    model = checkpoint.build()
    flops = count_flops(model, checkpoint.task)
    rewrites = rewrites_for(model, flops["encoder"], checkpoint.task)
    semantic = checkpoint.task == SEMANTIC
    progress("exporting the encoder")
    (staging / ENCODER).write_bytes(export_encoder(model, rewrites))
    progress("exporting the decoder")
    (staging / DECODER).write_bytes((export_semantic_decoder if semantic else export_decoder)(model, rewrites))
    if checkpoint.task == AUTO and model.auto_prompt_generator is not None:
        progress("exporting the prompter")
        (staging / PROMPTER).write_bytes(export_prompter(model.auto_prompt_generator))
    progress("asking the torch model the golden prompts")
    _write_goldens(staging, checkpoint, model)
    embedding = {name: list(shape) for name, shape in embedding_shapes(model, "ahead" in rewrites).items()}
    manifest = {**_manifest(checkpoint, model), "embedding": embedding, "flops": flops, **about}
    (staging / CARD).write_text(model_card(manifest), encoding="utf-8")
    manifest["files"] = {file.name: file_entry(file) for file in sorted(staging.iterdir())}
    add_tiers(staging / MANIFEST, manifest, request, _reference(checkpoint, model, request.calibration), progress)


def _write_goldens(staging: Path, checkpoint: Checkpoint, model: Sam) -> None:
    images, preprocessing, auto = golden_images(), checkpoint.preprocessing, checkpoint.auto
    if checkpoint.task == SEMANTIC:
        answers = semantic_answers(model, preprocessing, images)
    else:
        points = [] if auto is None else golden_points(model, preprocessing, images, auto.selection)
        if points:
            (staging / GOLDEN_POINTS).write_bytes(write_golden_points(points))
        answers = golden_answers(model, preprocessing, images, points)
    (staging / GOLDEN).write_bytes(write_golden(images, *answers))


def _reference(checkpoint: Checkpoint, model: Sam, sets: CalibrationSets | None) -> Reference | None:
    if sets is None:
        return None
    # With torch, so that no graph of ours is its own judge.
    asked = what_counts(checkpoint.task, checkpoint.prompts["trained"], checkpoint.classes)
    return sets.dice(TorchPredictor.of(checkpoint, model), *asked)


def _manifest(checkpoint: Checkpoint, model: Sam) -> dict[str, Any]:
    decoder = model.mask_decoder
    return {
        "format": FORMAT,
        "name": "",
        "version": "",
        "task": checkpoint.task,
        "geometry": dict(checkpoint.geometry),
        "intensity": dict(checkpoint.intensity),
        "normalisation": dict(checkpoint.normalisation),
        "embedding": {},
        "prompts": dict(checkpoint.prompts),
        "outputs": {
            "mask_side": model.prompt_encoder.mask_side,
            "mask_threshold": 0.0,
            # For ambiguous prompts; those of a semantic model are its classes.
            "multimask_outputs": 0 if checkpoint.task == SEMANTIC else decoder.num_mask_tokens - 1,
        },
        "classes": dict(checkpoint.classes),
        "flops": {},
        "licence": dict(checkpoint.licence),
        "lineage": {**checkpoint.lineage, "exporter": exporter()},
        "files": {},
        "tiers": {TIER: [_plan(checkpoint.task)]},
        "parity": {},
        "accuracy": {},
    }


def _plan(task: str) -> dict[str, Any]:
    graphs = {"encoder": ENCODER, "decoder": DECODER, **({"prompter": PROMPTER} if task == AUTO else {})}
    parts = {part: {"file": file, "precision": "float32"} for part, file in graphs.items()}
    return {"engines": ["onnxruntime", "openvino"], **parts}
