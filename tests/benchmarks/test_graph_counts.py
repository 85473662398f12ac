"""No change makes graphs larger unseen: what export writes is counted and compared with what is committed."""

import json
from pathlib import Path

import pytest

from graph_counts import graph_counts
from samsdk.bundle import Bundle
from samsdk.hub import resolve_bundle

LIMITS = json.loads((Path(__file__).parents[2] / "benchmarks" / "graph_limits.json").read_text(encoding="utf-8"))
# Weights are a model's own; other counts belong to the exporter. A file's few bytes of names may differ by a version.
SLACK = {"bytes": 1.01}


def check(name: str, bundle: Bundle) -> None:
    counts = graph_counts(bundle)
    assert counts.keys() == LIMITS[name].keys()
    for graph, limits in LIMITS[name].items():
        for what, limit in limits.items():
            found = counts[graph][what]
            text = f"{name}, {graph}: {found} {what}, at most {limit} were committed in benchmarks/graph_limits.json"
            assert found <= limit * SLACK.get(what, 1), text
            # What got smaller has to be written down, or the next change could lose it again.
            assert found > 0.98 * limit, f"{text}; write the smaller count down"


def test_the_packaged_model() -> None:
    check("student", Bundle.open(resolve_bundle(None)))


@pytest.mark.parametrize(("name", "made"), [("tiny", "exported_bundle"), ("organs", "semantic_bundle")])
def test_what_export_writes(name: str, made: str, request: pytest.FixtureRequest) -> None:
    check(name, Bundle.open(request.getfixturevalue(made)))
