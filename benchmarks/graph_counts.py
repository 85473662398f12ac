"""What a bundle's graphs cost, in counts that no noise can move.

    python benchmarks/graph_counts.py BUNDLE ...

prints them as JSON. tests/benchmarks/test_graph_counts.py compares them with benchmarks/graph_limits.json, so that a
change which makes graphs larger is seen when it is made.
"""

import json
import sys
from typing import Any

import onnx

from samsdk.bundle import Bundle
from samsdk.hub import resolve_bundle


def graph_counts(bundle: Bundle) -> dict[str, dict[str, int]]:
    """Of each graph of a bundle: `nodes`, `products` (matrix products and convolutions), `bytes`, and `flops`."""
    found: dict[str, dict[str, int]] = {}
    for name in sorted(one for one in bundle.manifest.files if one.endswith(".onnx")):
        content = bundle.read(name)
        nodes = onnx.load_model_from_string(content).graph.node
        products = sum(node.op_type in ("MatMul", "Gemm", "Conv", "ConvTranspose") for node in nodes)
        part = name.removesuffix(".onnx")
        counts = {"nodes": len(nodes), "products": products, "bytes": len(content)}
        found[part] = {**counts, "flops": int(bundle.manifest.flops.get(part, 0))}
    return found


def main() -> None:
    """Count and print."""
    counts: dict[str, Any] = {name: graph_counts(Bundle.open(resolve_bundle(name))) for name in sys.argv[1:]}
    print(json.dumps(counts, indent=1))


if __name__ == "__main__":
    main()
