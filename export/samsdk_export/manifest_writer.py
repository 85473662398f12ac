"""The entries of the manifest of a bundle that is being written."""

import hashlib
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from samsdk.tiers import Plan
from samsdk_export.onnx_export import OPSET


def plan_entry(plan: Plan) -> dict[str, Any]:
    """A plan as the manifest holds it."""
    graphs = {part: asdict(graph) for part, graph in plan.parts.items()}
    entry = {**graphs, "engines": plan.engines, "targets": plan.targets}
    return {key: value for key, value in entry.items() if value}


def file_entry(file: Path) -> dict[str, Any]:
    """What the manifest says of a file."""
    content = file.read_bytes()
    return {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content)}


def exporter() -> dict[str, Any]:
    """What exports, for the lineage."""
    libraries = {name: version(name) for name in ("samsdk", "torch", "onnx")}
    return {**libraries, "opset": OPSET}
