"""The search for a plan in lower precision: which layers may compute in bfloat16 before Dice changes.

Every layer is lowered alone, and what that does to the logits is measured on calibration images. Layers are then
lowered together in the order of error per multiplication, as many as the tier's bound on Dice allows on every
calibration set. Nothing is believed of a layer because of its type.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from samsdk.backends.openvino import require
from samsdk.bundle import Bundle
from samsdk.embedding import Embedding
from samsdk.golden import answer_masks
from samsdk.masks import mask_iou
from samsdk.predictor import Predictor
from samsdk.prompts import Prompt
from samsdk.tiers import DICE_BOUNDS, Graph, Plan
from samsdk_export.calibration import CalibrationSets, Reference, dice_change, largest_change, what_counts
from samsdk_training.data import tight_box
from samsdk_training.simulate import centre_point

BACKEND, DEVICE = "openvino", "openvino"
PARTS = ("encoder", "decoder")
_LAYERS = ("Convolution", "GroupConvolution", "MatMul")
_TRIAL = "trial"
# Images that each layer is tried on, spread over the calibration sets; the bound is held against all of them.
_PROBED = 5
# Logits beyond this are foreground or background whatever happens to them.
_SURE = 8.0
Lowered = Mapping[str, Sequence[str]]
Progress = Callable[[str], None]


@dataclass(frozen=True)
class Layer:
    """What lowering one layer alone does.

    Attributes:
        part: `encoder` or `decoder`.
        name: in the engine's graph.
        kind: e.g. `MatMul`.
        macs: multiplications for one image, or for one prompt of two points.
        logit_error: mean square of the change of the logits, relative to their own.
        mask_iou: mean over masks, against those in full precision.
    """

    part: str
    name: str
    kind: str
    macs: float
    logit_error: float
    mask_iou: float


@dataclass(frozen=True)
class Found:
    """The search's outcome.

    Attributes:
        plan: to be written into the manifest.
        layers: how many of all layers are lowered.
        share: of all multiplications that are lowered, encoder and decoder counted once each.
        change: of Dice, by set and kind of prompt.
    """

    plan: Plan
    layers: int
    share: float
    change: dict[str, dict[str, float]]


def lowered_plan(plan: Plan, lowered: Lowered, precision: str = "bfloat16") -> Plan:
    """A full-precision plan with some layers lowered, for OpenVINO."""

    def graph(part: str, full: Graph) -> Graph:
        names = tuple(lowered.get(part, ()))
        return replace(full, precision=precision, lowered=names) if names else full

    return replace(
        plan, encoder=graph("encoder", plan.encoder), decoder=graph("decoder", plan.decoder), engines=(BACKEND,)
    )


def trial(bundle: Bundle, plan: Plan) -> Predictor:
    """A predictor of a plan that is not in the manifest yet, through the very code that will run it."""
    manifest = replace(bundle.manifest, tiers={**bundle.manifest.tiers, _TRIAL: (plan,)})
    return Predictor(Bundle(bundle.path, manifest), device=DEVICE, tier=_TRIAL, uncertified=BACKEND)


def list_layers(bundle: Bundle, plan: Plan, part: str) -> list[tuple[str, str, float]]:
    """Name, kind and multiplications of a graph's layers, in the order in which they run."""
    graph = plan.encoder if part == "encoder" else plan.decoder
    model = require().Core().read_model(bundle.read(graph.file))
    model.reshape({port.any_name: _one_prompt(port) for port in model.inputs})
    return [
        (layer.get_friendly_name(), layer.get_type_name(), _macs(layer))
        for layer in model.get_ordered_ops()
        if layer.get_type_name() in _LAYERS
    ]


def _one_prompt(port: Any) -> list[int]:
    lengths = [2 if index else 1 for index in range(len(port.partial_shape))]
    return [
        length.get_length() if length.is_static else free
        for length, free in zip(port.partial_shape, lengths, strict=True)
    ]


def _macs(layer: Any) -> float:
    outputs = float(np.prod(list(layer.output(0).shape)))
    inputs, weights = (list(layer.input(index).get_shape()) for index in (0, 1))
    if layer.get_type_name() == "MatMul":
        return outputs * float(inputs[-2 if layer.get_attributes().get("transpose_a") else -1])
    # A convolution's weights are [out, in, h, w], a grouped one's [groups, out, in, h, w].
    return outputs * float(np.prod(weights[-3:]))


class Probe:
    """Calibration prompts with the answers in full precision.

    Args:
        bundle: with the `exact` tier.
        plan: its plan.
        sets: where images and objects come from.
        kinds: of prompts that the weights were trained with; none for a model that is asked without any.
    """

    def __init__(self, bundle: Bundle, plan: Plan, sets: CalibrationSets, kinds: Sequence[str]):
        self._prompts = list(_prompts(sets, kinds))
        self._manifest = bundle.manifest
        full = trial(bundle, replace(plan, engines=(BACKEND,)))
        self._embeddings = [full.encode(image) for image, _ in self._prompts]
        self._truth = list(self._answers(full, self._embeddings))

    def measure(self, predictor: Predictor, part: str) -> tuple[float, float]:
        """Relative mean square error of the logits, and mean mask IoU, against full precision.

        Args:
            predictor: what is measured.
            part: `encoder`, or `decoder` to take the embeddings of full precision.
        """
        embeddings = self._embeddings
        if part == "encoder":
            embeddings = [predictor.encode(image) for image, _ in self._prompts]
        errors, overlaps = [], []
        for logits, truth in zip(self._answers(predictor, embeddings), self._truth, strict=True):
            near = np.clip(truth, -_SURE, _SURE)
            errors.append(float(np.square(np.clip(logits, -_SURE, _SURE) - near).mean() / np.square(near).mean()))
            masks = (answer_masks(one, self._manifest) for one in (logits, truth))
            overlaps += [mask_iou(*pair) for pair in zip(*masks, strict=True)]
        return float(np.mean(errors)), float(np.mean(overlaps))

    def _answers(self, predictor: Predictor, embeddings: Sequence[Embedding]) -> Iterator[NDArray[np.float32]]:
        for embedding, (_, prompts) in zip(embeddings, self._prompts, strict=True):
            for prompt in prompts:
                yield predictor.decode_batch(embedding, [prompt])[0].low_res_logits


def _prompts(sets: CalibrationSets, kinds: Sequence[str]) -> Iterator[tuple[NDArray[np.generic], list[Prompt]]]:
    spread = sets.folders[:: math.ceil(len(sets.folders) / _PROBED)]
    for folder in spread:
        for labelled in sets.read(folder)[: math.ceil(_PROBED / len(spread))]:
            if not kinds:
                yield labelled.image, [Prompt()]
                continue
            objects = labelled.objects(smallest=30)[: sets.objects]
            boxes = [Prompt(box=tight_box(one)) for one in objects if "box" in kinds]
            points = [Prompt([centre_point(one)], [1]) for one in objects if "points" in kinds]
            if boxes or points:
                yield labelled.image, boxes + points


def measure_layers(bundle: Bundle, plan: Plan, probe: Probe, progress: Progress) -> list[Layer]:
    """Lower every layer of both graphs alone, and measure what that does."""
    layers = []
    for part in PARTS:
        listed = list_layers(bundle, plan, part)
        for index, (name, kind, macs) in enumerate(listed, start=1):
            progress(f"{part} layer {index} of {len(listed)}")
            error, overlap = probe.measure(trial(bundle, lowered_plan(plan, {part: [name]})), part)
            layers.append(Layer(part, name, kind, macs, error, overlap))
    return layers


def find_plan(
    bundle: Bundle,
    plan: Plan,
    tier: str,
    layers: Sequence[Layer],
    sets: CalibrationSets,
    reference: Reference,
    progress: Progress,
) -> Found | None:
    """Lower as many layers as a tier's bound allows.

    Args:
        bundle: with the `exact` tier.
        plan: its plan.
        tier: `balanced` or `fast`.
        layers: what `measure_layers` found.
        sets: on every one of which the bound has to hold.
        reference: the checkpoint's Dice on them.
        progress: called with a line for each trial.

    Returns:
        None where not even one layer may be lowered.
    """
    manifest = bundle.manifest
    asked = what_counts(manifest.task, manifest.trained_kinds, manifest.classes)
    order = sorted(layers, key=lambda layer: layer.logit_error / layer.macs)
    total = {part: sum(layer.macs for layer in layers if layer.part == part) for part in PARTS}
    fewest, most, best = 0, len(order) + 1, None
    # The error grows with the number of lowered layers, but for noise: the search halves, and the certificate decides.
    while most - fewest > 1:
        count = (fewest + most) // 2
        chosen = order[:count]
        names = {part: [layer.name for layer in chosen if layer.part == part] for part in PARTS}
        candidate = lowered_plan(plan, names)
        dice = sets.dice(trial(bundle, candidate), *asked)
        change = dice_change(dice, reference)
        progress(f"{tier}: {count} of {len(order)} layers lowered, Dice changes by {100 * largest_change(change):.2f}")
        if largest_change(change) <= DICE_BOUNDS[tier]:
            share = sum(layer.macs / total[layer.part] for layer in chosen) / len(PARTS)
            fewest, best = count, Found(candidate, count, share, change)
        else:
            most = count
    return best
