"""The server keeps to its own OpenAPI document, whatever requests are made from it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import positive_data_acceptance
from starlette.testclient import TestClient

from app.main import create_app
from app.settings import Settings
from keepsight.keys import SCOPES, KeyFile
from model_store.types import VersionId

OPERATIONS = [
    (method.upper(), path)
    for path, methods in create_app(Settings(store=Path("unused"))).openapi()["paths"].items()
    for method in methods
]
NOT_ALL_IN_A_SCHEMA = {
    "/v1/classify": "which options go together",
    "/v1/embeddings": "which versions there are",
    "/v1/corrections": "which classes there are",
    "/v1/tasks": "which bytes are an archive",
    "/v1/test-sets/{name}": "which bytes are an archive",
    "/v1/versions/merge": "which hyper-parameters there are",
    "/v1/classes/merge": "which names can be shown",
    "/v1/classes/preview": "which fields go together",
    "/v1/admin/prune": "that 2.0 is no whole number",
    "/v1/classes/{name}": "which fields go together",
    "/v1/classes/{name}/replace": "which bytes are an archive",
}
"""What is refused though it is valid by the schema; all other checks are made there too."""
UNAVAILABLE = {503, 504}
EXAMPLES = 30
"""Requests that are made up for each operation."""


@pytest.fixture
def document(
    configure: Callable[..., Settings],
    serve: Callable[[Settings], TestClient],
    listen: Callable[[Settings], str],
    teach: Callable[..., VersionId],
) -> schemathesis.BaseSchema:
    """The document of a server that serves two classes."""
    serve(configure()).get("/healthz")  # makes version 1
    teach("cat", "dog")
    return schemathesis.openapi.from_url(f"{listen(configure())}/openapi.json")


def test_the_documents_own_examples_are_valid(document: schemathesis.BaseSchema) -> None:
    raw = document.raw_schema
    seen = 0
    for methods in raw["paths"].values():
        for operation in methods.values():
            for content in operation.get("requestBody", {}).get("content", {}).values():
                if "example" in content:
                    jsonschema.validate(content["example"], content.get("schema", {}))
                    seen += 1
    assert seen >= 3


@pytest.mark.slow
# the server draws random pauses in threads of this process, which hypothesis cannot tell from a strategy's own draws
@pytest.mark.filterwarnings("ignore:Do not use the `random` module inside strategies")
@pytest.mark.parametrize(("method", "path"), OPERATIONS)
def test_every_answer_is_one_that_the_document_promises(
    document: schemathesis.BaseSchema, configure: Callable[..., Settings], method: str, path: str
) -> None:
    token = KeyFile(configure().keys_file).create("tester", SCOPES).token
    excluded: list[Any] = [positive_data_acceptance] if path in NOT_ALL_IN_A_SCHEMA else []
    # its kind would be any status from 500 on, and a request may ask for a deadline that cannot be met
    excluded.append(not_a_server_error)

    @settings(
        max_examples=EXAMPLES, derandomize=True, database=None, deadline=None, suppress_health_check=list(HealthCheck)
    )
    @given(document[path][method].as_strategy())
    def check(case: Any) -> None:
        response = case.call_and_validate(headers={"Authorization": f"Bearer {token}"}, excluded_checks=excluded)
        assert response.status_code < 500 or response.status_code in UNAVAILABLE, response.text

    check()
