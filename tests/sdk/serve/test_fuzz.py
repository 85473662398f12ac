"""The interface that OpenAPI describes, asked whatever a generator thinks of; many more examples: docs/serve.md."""

import os
from typing import Any

import numpy as np
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.strategies import booleans
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

import samsdk
from samsdk.serve.app import create_app
from samsdk.serve.limits import Limits

EXAMPLES = int(os.environ.get("SAMSDK_FUZZ_EXAMPLES", "12"))
CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
LIMITS = Limits(requests_per_second=1e6, burst=10**6, upload_bytes=2**20)


@pytest.fixture(scope="module")
def application(predictor: samsdk.Predictor) -> Any:
    app = create_app({"tiny": predictor}, limits=LIMITS, access=_any_host())
    return schemathesis.openapi.from_asgi("/openapi.json", app)


def _any_host() -> Any:
    from samsdk.serve.guard import Access

    return Access(frozenset({"testserver", "127.0.0.1", "localhost"}))


@pytest.fixture(scope="module")
def session(application: Any) -> str:
    """A session with one object, so that requests come further than to 404."""
    from samsdk.io.scans import Scan
    from samsdk.serve.sessions import Session
    from samsdk.serve.uploads import Upload

    service = application.app.state.service
    predictor = service.predictors["tiny"]
    scan = Scan(np.arange(1024, dtype=np.uint8).reshape(32, 32) // 4)
    open_one = Session(predictor, Upload(scan), service.workers.gate)
    service.sessions.add(open_one)
    return open_one.id


def test_no_request_makes_the_service_fail(application: Any, session: str) -> None:
    operations = [found.ok() for found in application.get_all_operations()]
    assert len(operations) > 15
    for operation in operations:

        @settings(
            max_examples=EXAMPLES,
            deadline=None,
            derandomize=True,
            database=None,
            phases=[Phase.explicit, Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(case=operation.as_strategy(), known=booleans())
        def ask(case: Any, known: bool) -> None:
            closing = case.method == "DELETE" and "number" not in (case.path_parameters or {})
            if known and not closing and "session" in (case.path_parameters or {}):
                case.path_parameters["session"] = session
            case.call_and_validate(checks=CHECKS)

        ask()
