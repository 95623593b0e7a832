"""Whatever the OpenAPI document allows, and much that it does not, gets an answer that the document describes."""

import os
from collections.abc import Iterator

import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis.checks import not_a_server_error
from schemathesis.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from starlette.testclient import TestClient

from clickwell.devstack.valkey import ValkeyServer
from clickwell.producers.topics import ensure_topics
from clickwell.redis_client import connect
from clickwell.schemas.interactions import Interaction
from clickwell.schemas.searches import Search
from clickwell.serving.api.app import build_app
from clickwell.serving.api.keys import Scope, create
from clickwell.settings import Settings

pytestmark = pytest.mark.broker

# For a longer search; a few find what a person would.
EXAMPLES = int(os.environ.get("CLICKWELL_TEST_SCHEMA_EXAMPLES", "8"))
CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]


@pytest.fixture(scope="module")
def api(kafka: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[schemathesis.BaseSchema]:
    """The document of an app in this process, on a Valkey of its own, and a key that may do everything."""
    folder = tmp_path_factory.mktemp("schema")
    with ValkeyServer(folder) as valkey:
        settings = Settings.load(folder, kafka={"bootstrap_servers": kafka}, redis={"url": valkey.url})
        ensure_topics(settings)
        with connect(settings) as client:
            _, text = create(client, frozenset({Scope.ADMIN}))
        app = build_app(settings)
        with TestClient(app):  # opens what the app needs, for all tests
            schema = schemathesis.openapi.from_asgi("/openapi.json", app)
            schema.config.update(headers={"Authorization": f"Bearer {text}"})
            yield schema


schema = schemathesis.pytest.from_fixture("api")


@schema.parametrize()
@settings(max_examples=EXAMPLES, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
def test_every_answer_is_one_that_the_document_describes(case: schemathesis.Case) -> None:
    """No 5xx, no status, type or body outside the schema."""
    case.call_and_validate(checks=CHECKS)


def test_the_document_has_the_events_own_schemas(api: schemathesis.BaseSchema) -> None:
    """The ingestion routes take what the topics take."""
    schemas = api.raw_schema["components"]["schemas"]
    for model in (Interaction, Search):
        assert schemas[model.__name__]["properties"].keys() == model.model_fields.keys()
    assert schemas["Interaction"]["required"] == ["feature_id", "interaction_type"]
