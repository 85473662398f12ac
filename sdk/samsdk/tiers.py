"""Tiers: for each wanted precision, the plans that export measured, and which engines may run them."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

# The graphs that a plan names: of an image, of one that a model prompts itself on, and of a volume.
IMAGE_PARTS: Final = ("encoder", "decoder")
PROMPTED_PARTS: Final = (*IMAGE_PARTS, "prompter")
VOLUME_PARTS: Final = ("network",)
# What an engine may compute in; float32 is what was trained.
PRECISIONS: Final = ("float32", "bfloat16", "float16", "int8")
ENGINES: Final = ("onnxruntime", "openvino", "tensorrt")
# Largest loss of Dice, on any calibration set, that a tier may cost. `exact` is held by its distance to the checkpoint.
DICE_BOUNDS: Final = {"exact": 0.0, "balanced": 0.001, "fast": 0.005}


@dataclass(frozen=True)
class Graph:
    """One file and how an engine is to run it.

    Attributes:
        file: an ONNX graph, or a TensorRT engine.
        precision: one of `PRECISIONS`; of the layers that compute most.
        lowered: names of the layers that compute in `precision` while all others stay in float32, where the engine
            changes a float32 graph as it loads it (OpenVINO); elsewhere the file itself says it.
    """

    file: str
    precision: str
    lowered: tuple[str, ...] = ()


@dataclass(frozen=True)
class Plan:
    """One way to run a model.

    Attributes:
        encoder: the encoder's graph; of a volume bundle its one graph, the network.
        decoder: the decoder's graph; of a volume bundle the same as `encoder`.
        engines: some of `ENGINES`; those that can run these files.
        targets: GPU generations (`sm86`) that the files were built for; empty where they run on any.
        prompter: the graph that says where points may go, of a bundle that prompts itself; else None.
    """

    encoder: Graph
    decoder: Graph
    engines: tuple[str, ...]
    targets: tuple[str, ...] = ()
    prompter: Graph | None = None

    @property
    def parts(self) -> dict[str, Graph]:
        """The graphs by what they are called in a manifest."""
        if self.decoder is self.encoder:
            return dict(zip(VOLUME_PARTS, (self.encoder,), strict=True))
        prompter = {} if self.prompter is None else {"prompter": self.prompter}
        return {"encoder": self.encoder, "decoder": self.decoder, **prompter}

    @property
    def graphs(self) -> tuple[Graph, ...]:
        """Encoder, decoder and, where there is one, prompter; or the network alone."""
        return tuple(self.parts.values())

    @property
    def files(self) -> tuple[str, ...]:
        """The graphs' files, in their order."""
        return tuple(graph.file for graph in self.graphs)

    @property
    def precision(self) -> str:
        """The precisions in a word, for people."""
        encoder, decoder = self.encoder.precision, self.decoder.precision
        return encoder if encoder == decoder else f"{encoder} encoder, {decoder} decoder"

    def runs_on(self, backend: str, target: str | None = None) -> bool:
        """Whether a backend (`onnxruntime-cpu`, `tensorrt`) can run the files, on a GPU generation if it needs one."""
        return backend.split("-")[0] in self.engines and (not self.targets or target in self.targets)


class TierReader:
    """Reads the field `tiers` of a manifest, and collects what is wrong with it.

    Args:
        files: what the manifest's `files` lists.
        parts: what each plan must name, e.g. `IMAGE_PARTS`.
    """

    def __init__(self, files: Mapping[str, Any], parts: tuple[str, ...] = IMAGE_PARTS) -> None:
        self._files = files
        self._parts = parts
        self.problems: list[str] = []

    def tiers(self, data: Mapping[str, Any]) -> dict[str, tuple[Plan, ...]]:
        """All tiers; what is malformed is left out and named in `problems`."""
        found = {name: tuple(self._plans(f"tiers.{name}", plans)) for name, plans in data.items()}
        if not found:
            self.problems.append("tiers names no tier")
        return found

    def _plans(self, path: str, plans: object) -> Iterator[Plan]:
        if not isinstance(plans, list) or not plans:
            self.problems.append(f"{path} must be a list of plans, got {plans!r}")
            return
        for index, plan in enumerate(plans):
            place = f"{path}.{index}"
            if not isinstance(plan, Mapping):
                self.problems.append(f"{place} must be an object, got {plan!r}")
                continue
            graphs = [self._graph(f"{place}.{part}", plan.get(part)) for part in self._parts]
            encoder, decoder = graphs[0], graphs[min(1, len(graphs) - 1)]
            prompter = graphs[2] if len(graphs) > 2 else None
            engines = self._words(f"{place}.engines", plan.get("engines"), ENGINES)
            targets = self._words(f"{place}.targets", plan.get("targets", []))
            if encoder and decoder and engines:
                yield Plan(encoder, decoder, engines, targets, prompter)
            elif plan.get("engines") == []:
                self.problems.append(f"{place}.engines names none, expected some of: {', '.join(ENGINES)}")

    def _graph(self, path: str, graph: object) -> Graph | None:
        if not isinstance(graph, Mapping):
            self.problems.append(f"{path} is missing" if graph is None else f"{path} must be an object, got {graph!r}")
            return None
        file, precision = graph.get("file"), graph.get("precision")
        if not isinstance(file, str) or file not in self._files:
            self.problems.append(f"{path} names {file}, which files lacks")
        if precision not in PRECISIONS:
            self.problems.append(f"{path}.precision is {precision!r}, expected: {', '.join(PRECISIONS)}")
        lowered = self._words(f"{path}.lowered", graph.get("lowered", []))
        return Graph(str(file), str(precision), lowered)

    def _words(self, path: str, words: object, allowed: Sequence[str] = ()) -> tuple[str, ...]:
        if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
            self.problems.append(f"{path} must be a list of words, got {words!r}")
            return ()
        unknown = [word for word in words if allowed and word not in allowed]
        if unknown:
            self.problems.append(f"{path} is {words!r}, expected: {', '.join(allowed)}")
            return ()
        return tuple(words)
