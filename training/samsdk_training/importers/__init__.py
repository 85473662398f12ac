"""Weights that others published, turned into checkpoints with their preprocessing.

A file is taken if every tensor of it is accounted for; otherwise one error lists everything that is missing, too much
or of the wrong shape. What is known of a file by its hash goes into the checkpoint's licence and lineage.
"""

import os
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from samsdk.hub import MODELS
from samsdk.manifest import SEMANTIC
from samsdk.transforms import Preprocessing
from samsdk_training.checkpoints import Checkpoint, CheckpointError, load_checkpoint, state_problems
from samsdk_training.importers.published import LORAS, PUBLISHED, Published, PublishedLora
from samsdk_training.importers.samed import MASK_TOKENS, lora_problems, merge_lora, parts, samed_pairs
from samsdk_training.importers.weights_file import WeightsFile, read_weights
from samsdk_training.models.sam_config import SamConfig
from samsdk_training.models.vit import PATCH
from samsdk_training.resize import POSITIONS, resize_checkpoint

KINDS = (*PUBLISHED, *LORAS)


def import_weights(
    path: str | os.PathLike[str],
    kind: str,
    *,
    base: str | os.PathLike[str] | None = None,
    image_size: int | None = None,
    classes: Sequence[str] = (),
) -> Checkpoint:
    """Import a file of published weights, or another one of the same architecture.

    A file other than the published one is taken too if all its tensors fit; its lineage then says ``"known": False``
    and its licence is left open, since neither can be read off.

    Args:
        path: The file; see `read_weights` for its forms.
        kind: One of `KINDS`.
        base: The base of low-rank weights: its own file, or a checkpoint's folder.
        image_size: Side of the input in pixels that the checkpoint is wanted for; None for that of the publication.
        classes: Names of the classes of low-rank weights, without the background; numbered where left out.

    Raises:
        CheckpointError: The file cannot be read or is of another architecture, the base is missing or not one, or the
            input size does not fit; the text lists every problem.
        ValueError: The kind is unknown.
    """
    if kind not in KINDS:
        raise ValueError(f"unknown kind of weights {kind!r}, expected one of: {', '.join(KINDS)}")
    file = read_weights(path, f"; `samsdk models pull {kind}` fetches the published ones" if kind in MODELS else "")
    if kind in LORAS:
        return _import_lora(file, kind, base, image_size, tuple(classes))
    if base is not None or classes:
        raise CheckpointError(f"{kind} is a whole promptable model: it takes no base and no classes")
    return _import_whole(file, kind, image_size)


def import_lite_medsam(path: str | os.PathLike[str]) -> Checkpoint:
    """Import LiteMedSAM's weights; see `import_weights`."""
    return import_weights(path, "lite-medsam")


def _import_whole(file: WeightsFile, kind: str, image_size: int | None) -> Checkpoint:
    published = PUBLISHED[kind]
    state = {key: tensor for key, tensor in file.state.items() if not key.startswith(published.unused)}
    unused = sorted(set(file.state) - set(state))
    model = published.config.to_dict()
    problems = state_problems(model, state)
    if problems:
        raise CheckpointError(
            f"the tensors in {file.name!r} are not those of {published.title}{_hint(kind, file.state)}:", problems
        )
    rules = _rules(published.preprocessing)
    single = {} if published.single_mask == "first" else {"single": published.single_mask}
    checkpoint = Checkpoint(
        model=model,
        **rules,
        prompts={
            "kinds": ["points", "box", "mask"],
            "trained": list(published.trained),
            "mask": published.preprocessing.mask_prompt,
            **single,
        },
        classes={},
        licence=_licence(published, _is_known(file, kind)),
        lineage=_lineage(file, kind, unused),
        state=state,
    )
    return checkpoint if image_size is None else resize_checkpoint(checkpoint, image_size)


def _import_lora(
    file: WeightsFile,
    kind: str,
    base: str | os.PathLike[str] | None,
    image_size: int | None,
    classes: tuple[str, ...],
) -> Checkpoint:
    published = LORAS[kind]
    if base is None:
        raise CheckpointError(
            f"{published.title}'s file holds changes to {PUBLISHED[published.base].title}: give that as the base"
        )
    size = published.image_size if image_size is None else image_size
    resized = resize_checkpoint(_read_base(base, published.base), size)
    config = SamConfig.from_dict(resized.model)
    pairs = samed_pairs(config, published.decoder)
    count = _count_classes(file)
    model = replace(config, decoder=replace(config.decoder, num_multimask_outputs=count)).to_dict()
    state = parts(file.state, resized.state, pairs)
    problems = lora_problems(file.state, resized.state, pairs) + state_problems(model, state)
    if problems:
        raise CheckpointError(f"the tensors in {file.name!r} are not those of {published.title}:", problems)
    lora = {"rank": len(file.state[pairs[0].a]), "scale": 1.0, "merged": len(pairs)}
    return Checkpoint(
        model=model,
        **_rules(replace(published.preprocessing, input_size=size)),
        prompts={"kinds": [], "trained": [], "mask": "logits"},
        classes=_classes(file, count, classes),
        licence=_licence(published, known=False),
        lineage={**_lineage(file, kind, []), "recipe": kind, "merged": True, "lora": lora, "base": resized.lineage},
        state=merge_lora(file.state, state, pairs),
        task=SEMANTIC,
    )


def _classes(file: WeightsFile, count: int, names: tuple[str, ...]) -> dict[str, str]:
    if names and len(names) != count:
        raise CheckpointError(f"{file.name!r} has {count} classes, got {len(names)} names")
    named = ("background", *(names or [f"class {number}" for number in range(1, count + 1)]))
    return {str(number): name for number, name in enumerate(named)}


def _count_classes(file: WeightsFile) -> int:
    """How many masks there are besides that of the background; SAM's number if the file does not say."""
    tokens = file.state.get(MASK_TOKENS)
    return max(1, len(tokens) - 1) if tokens is not None and tokens.ndim else 3


def _read_base(base: str | os.PathLike[str], kind: str) -> Checkpoint:
    if not Path(base).is_dir():
        return import_weights(base, kind)
    checkpoint, wanted = load_checkpoint(base), PUBLISHED[kind].config
    given = SamConfig.from_dict(checkpoint.model)
    at_its_size = replace(wanted, encoder=replace(wanted.encoder, image_size=given.encoder.image_size))
    if given != at_its_size:
        raise CheckpointError(f"the base {os.fspath(base)!r} is not of the architecture of {PUBLISHED[kind].title}")
    return checkpoint


def _rules(preprocessing: Preprocessing) -> dict[str, Any]:
    rules = asdict(preprocessing)
    return {
        "geometry": {key: rules[key] for key in ("rule", "input_size", "interpolation", "box_rounding")},
        "intensity": {"rule": rules["intensity"]},
        "normalisation": {"rule": rules["normalisation"]},
    }


def _is_known(file: WeightsFile, kind: str) -> bool:
    return kind in MODELS and MODELS[kind].sha256 == file.sha256


def _hint(kind: str, state: dict[str, Tensor]) -> str:
    """Which other kind the tensors are of, if they are exactly of one."""
    for other, published in PUBLISHED.items():
        fitting = {key: tensor for key, tensor in state.items() if not key.startswith(published.unused)}
        if published.config != PUBLISHED[kind].config and not state_problems(published.config.to_dict(), fitting):
            return f" but of {other}"
    if POSITIONS in state and state[POSITIONS].ndim == 4:
        return f"; they are of a ViT for images of {PATCH * state[POSITIONS].shape[1]} pixels"
    return ""


def _licence(published: Published | PublishedLora, known: bool) -> dict[str, Any]:
    return {
        # The SPDX word for weights whose terms cannot be told from the file.
        "id": "Apache-2.0" if known else "NOASSERTION",
        "source": published.source,
        "attribution": published.attribution,
    }


def _lineage(file: WeightsFile, kind: str, unused: list[str]) -> dict[str, Any]:
    known = _is_known(file, kind)
    lineage: dict[str, Any] = {"recipe": "published weights" if known else "unknown"}
    if known:
        lineage |= MODELS[kind].origin
    lineage |= {"file": file.name, "sha256": file.sha256, "known": known}
    if unused:
        lineage["unused_tensors"] = unused
    if file.ignored:
        lineage["ignored"] = list(file.ignored)
    return lineage
