"""Adding TensorRT-RTX engines to a bundle that is being written.

Full precision becomes part of the tier `exact`, half precision of `fast`. Neither can be proved here, where there is no
GPU: the runtime refuses them on a device until `samsdk doctor --certify` has measured them there.
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from samsdk.manifest import SEMANTIC, VOLUME
from samsdk.tiers import VOLUME_PARTS, Graph, Plan
from samsdk_export.manifest_writer import file_entry, plan_entry
from samsdk_export.tensorrt import (
    DECODER_PROFILE,
    ENCODER_PROFILE,
    Engine,
    Profile,
    build_engine,
    engine_name,
    plan_engines,
)
from samsdk_export.typed import to_half

REPORT = "engines/report.json"


def add_engines(
    folder: Path, manifest: dict[str, Any], targets: Sequence[str], progress: Callable[[str], None]
) -> None:
    """Build engines from a bundle's graphs, and list them as plans.

    Args:
        folder: the bundle, with its ONNX graphs.
        manifest: its content; changed in place.
        targets: GPU generations, see `samsdk_export.tensorrt.TARGETS`.
        progress: called with a line before each engine.

    Raises:
        ExportError: a target is unknown, or TensorRT-RTX refuses a graph.
        MissingExtraError: tensorrt-rtx is not installed.
    """
    (folder / "engines").mkdir(exist_ok=True)
    report: dict[str, Any] = {}
    wanted = [("exact", one) for one in plan_engines(targets) if one[1] == "float32"]
    wanted += [("fast", one) for one in plan_engines(targets, half=True)]
    profiles = _profiles(manifest["task"])
    for tier, (served, precision) in wanted:
        files = {}
        for part, profile in profiles.items():
            progress(f"building the {precision} engine of the {part} for {', '.join(served)}")
            graph = (folder / f"{part}.onnx").read_bytes()
            engine = build_engine(to_half(graph) if precision == "float16" else graph, served, profile)
            name = engine_name(part, served, engine.version).replace(".engine", f".{precision}.engine")
            (folder / name).write_bytes(engine.content)
            manifest["files"][name] = file_entry(folder / name)
            report[name] = _report(engine)
            files[part] = Graph(name, precision)
        graphs = list(files.values())
        plan = Plan(graphs[0], graphs[-1], ("tensorrt",), served)
        manifest["tiers"].setdefault(tier, []).append(plan_entry(plan))
    (folder / REPORT).write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    manifest["files"][REPORT] = file_entry(folder / REPORT)


def _profiles(task: str) -> dict[str, Profile]:
    """The graphs of a bundle's plans, in their order, each with the extents that its engine is built for."""
    if task == VOLUME:
        return {VOLUME_PARTS[0]: ENCODER_PROFILE}
    # A semantic model's decoder takes images, as the encoder does, and no prompts.
    return {"encoder": ENCODER_PROFILE, "decoder": ENCODER_PROFILE if task == SEMANTIC else DECODER_PROFILE}


def _report(engine: Engine) -> dict[str, Any]:
    return {
        "targets": list(engine.targets),
        "tensorrt_rtx": engine.version,
        "graph_sha256": engine.graph_sha256,
        "seconds": round(engine.seconds, 2),
        "size": len(engine.content),
        **engine.report,
    }
