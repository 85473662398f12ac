"""TensorRT-RTX engines, built ahead of time and without a GPU (extra `tensorrt`)."""

import hashlib
import logging
import re
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

from samsdk.backends.tensorrt_library import collected_errors, import_library, library_log
from samsdk_export.onnx_export import ExportError
from samsdk_export.typed import float32_products

logger = logging.getLogger(__name__)

# The GPU generations by compute capability: Turing, Ampere, Ampere RTX, Ada, Blackwell RTX, GB10.
TARGETS: Final = ("sm75", "sm80", "sm86", "sm89", "sm120", "sm121")
# It has no float32 matrix products; every other one takes either precision.
_HALF_ONLY: Final = "sm75"

# Smallest, usual and largest extent of each dynamic dimension, by its name in the graph.
Profile = Mapping[str, tuple[int, int, int]]
ENCODER_PROFILE: Final[Profile] = MappingProxyType({"N": (1, 1, 8)})
DECODER_PROFILE: Final[Profile] = MappingProxyType({"P": (1, 1, 64), "K": (1, 2, 16)})

_KERNEL: Final = re.compile(rb"\b(?:function|runtime_fusion)=\{ name=(\w+)")
_ATTENTION: Final = re.compile(r"mha|attention", re.IGNORECASE)


@dataclass(frozen=True)
class Engine:
    """A serialised engine.

    Attributes:
        content: its bytes.
        targets: the GPU generations that it runs on, in the order of `TARGETS`.
        version: of the TensorRT-RTX that built it, and that runs it.
        graph_sha256: hash of the ONNX file that it was built from.
        seconds: that the build took.
        report: what is known of it without a GPU; JSON-serialisable, see `build_engine`.
    """

    content: bytes
    targets: tuple[str, ...]
    version: str
    graph_sha256: str
    seconds: float
    report: Mapping[str, Any]


def plan_engines(targets: Sequence[str], *, half: bool = False) -> list[tuple[tuple[str, ...], str]]:
    """Group GPU generations into as few engines as can serve them.

    Args:
        targets: of `TARGETS`, in any order.
        half: whether all run in half precision, instead of those alone that have to.

    Returns:
        For each engine its targets, and `float16` (the graph goes through `typed.to_half`) or `float32`.

    Raises:
        ExportError: a target is unknown, or there is none.
    """
    known = _check_targets(targets)
    groups = {
        "float16": tuple(target for target in known if half or target == _HALF_ONLY),
        "float32": tuple(target for target in known if not half and target != _HALF_ONLY),
    }
    return [(group, precision) for precision, group in groups.items() if group]


def engine_name(part: str, targets: Sequence[str], version: str) -> str:
    """The file of an engine in a bundle, e.g. `engines/encoder.sm86-sm89.trtrtx1.7.engine`.

    Args:
        part: `encoder` or `decoder`.
        targets: of `TARGETS`.
        version: of TensorRT-RTX.

    Raises:
        ExportError: a target is unknown, or there is none.
    """
    return f"engines/{part}.{'-'.join(_check_targets(targets))}.trtrtx{'.'.join(version.split('.')[:2])}.engine"


def accepted_by_parser(graph: bytes) -> bool:
    """Whether TensorRT-RTX reads the graph; why not is in the log.

    Args:
        graph: an ONNX file's bytes.

    Raises:
        MissingExtraError: tensorrt-rtx is not installed.
    """
    try:
        with _parsed(graph):
            return True
    except ExportError as error:
        logger.info("%s", error)
        return False


def build_engine(graph: bytes, targets: Sequence[str], profile: Profile) -> Engine:
    """Build one engine for several GPU generations; types are those of the graph.

    Args:
        graph: an ONNX file's bytes.
        targets: of `TARGETS`; with `sm75` the graph must come from `typed.to_half`.
        profile: smallest, usual and largest extent of each dynamic dimension of the inputs.

    Returns:
        The engine. Its report counts `layers` of the network and their `precisions` (by the type of the first
        output), and, read from the plan's text, `kernels` by name, `softmaxes` of the graph, and
        `fused_attentions`. TensorRT's engine inspector needs the engine on a GPU and has no part in it.

    Raises:
        MissingExtraError: tensorrt-rtx is not installed.
        ExportError: a target is unknown, the profile does not fit the graph, or TensorRT-RTX refuses the graph; the
            text holds its reasons.
    """
    chosen = _check_targets(targets)
    start = time.perf_counter()
    with _parsed(graph) as (library, builder, network, errors):
        _check_turing(graph, chosen)
        config = builder.create_builder_config()
        config.num_compute_capabilities = len(chosen)
        for index, target in enumerate(chosen):
            config.set_compute_capability(getattr(library.ComputeCapability, target.upper()), index)
        config.add_optimization_profile(_optimization_profile(builder, network, profile))
        plan = builder.build_serialized_network(network, config)
        if plan is None:
            raise ExportError(f"TensorRT-RTX cannot build the engine for {', '.join(chosen)}: {'; '.join(errors)}")
        content, version = bytes(plan), str(library.__version__)
        report = {**_network_report(library, network), **_plan_report(content)}
    seconds = time.perf_counter() - start
    logger.info("engine for %s built in %.1f s: %d bytes", ", ".join(chosen), seconds, len(content))
    return Engine(content, chosen, version, hashlib.sha256(graph).hexdigest(), seconds, report)


def _check_targets(targets: Sequence[str]) -> tuple[str, ...]:
    unknown = [target for target in targets if target not in TARGETS]
    if unknown or not targets:
        what = f"unknown targets {unknown}" if unknown else "no targets"
        raise ExportError(f"{what}, expected some of: {', '.join(TARGETS)}")
    return tuple(target for target in TARGETS if target in targets)


def _check_turing(graph: bytes, targets: Sequence[str]) -> None:
    products = float32_products(graph) if _HALF_ONLY in targets else []
    if products:
        raise ExportError(
            f"{_HALF_ONLY} multiplies matrices in float16 only, but {len(products)} nodes do it in float32 "
            f"({', '.join(products[:3])}, ...): convert the graph with samsdk_export.typed.to_half"
        )


@contextmanager
def _parsed(graph: bytes) -> Iterator[tuple[Any, Any, Any, list[str]]]:
    """The library, a builder, the graph as a network, and what the library logs as errors."""
    library = import_library("tensorrt_rtx", "building engines")
    log = library_log("tensorrt_rtx")
    with collected_errors() as errors:
        builder = library.Builder(log)
        network = builder.create_network(1 << int(library.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
        parser = library.OnnxParser(network, log)
        if not parser.parse(graph):
            reasons = [parser.get_error(index) for index in range(parser.num_errors)]
            texts = [f"{reason.node_name() or 'graph'} {reason.node_operator()}: {reason.desc()}" for reason in reasons]
            raise ExportError(f"TensorRT-RTX cannot read the graph: {'; '.join(texts or errors)}")
        yield library, builder, network, errors


def _optimization_profile(builder: Any, network: Any, profile: Profile) -> Any:
    for dimension, (smallest, usual, largest) in profile.items():
        if not 0 < smallest <= usual <= largest:
            raise ExportError(f"{dimension} must rise from at least 1, got {smallest}, {usual}, {largest}")
    shapes = builder.create_optimization_profile()
    named = set()
    for tensor in (network.get_input(index) for index in range(network.num_inputs)):
        extents = []
        for axis, extent in enumerate(tuple(tensor.shape)):
            dimension = tensor.get_dimension_name(axis) if extent < 0 else ""
            if extent < 0 and dimension not in profile:
                raise ExportError(f"{tensor.name} has a dynamic dimension {dimension!r}, the profile has {[*profile]}")
            named.add(dimension)
            extents.append(profile[dimension] if extent < 0 else (extent, extent, extent))
        if any(extent < 0 for extent in tuple(tensor.shape)):
            shapes.set_shape(tensor.name, *(tuple(extent[size] for extent in extents) for size in range(3)))
    unused = [dimension for dimension in profile if dimension not in named]
    if unused:
        raise ExportError(f"the profile names {unused}, which no input has")
    return shapes


def _network_report(library: Any, network: Any) -> dict[str, Any]:
    layers = [network.get_layer(index) for index in range(network.num_layers)]
    precisions = Counter(layer.get_output(0).dtype.name for layer in layers)
    softmaxes = sum(layer.type == library.LayerType.SOFTMAX for layer in layers)
    return {"layers": len(layers), "precisions": dict(sorted(precisions.items())), "softmaxes": softmaxes}


def _plan_report(content: bytes) -> dict[str, Any]:
    """Kernels by name, from the text that the compiler leaves in the plan: nothing documented, so only for reading."""
    names = (re.sub(r"_0x[0-9a-f]+.*$", "", name.decode("ascii")) for name in _KERNEL.findall(content))
    kernels = Counter(names)
    fused = {name: count for name, count in kernels.items() if _ATTENTION.search(name)}
    return {"kernels": dict(sorted(kernels.items())), "fused_attentions": sum(fused.values())}
