"""Whatever the OpenAPI document allows, and much that it does not, gets an answer that the document describes."""

import os

import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis.checks import not_a_server_error
from schemathesis.schemas import BaseSchema
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from clickwell.schemas.interactions import Interaction
from clickwell.schemas.searches import Search

from .api_server import Server

pytestmark = pytest.mark.broker

# For a longer search; a few find what a person would.
EXAMPLES = int(os.environ.get("CLICKWELL_TEST_SCHEMA_EXAMPLES", "8"))
CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]


@pytest.fixture(scope="module")
def api(server: Server) -> BaseSchema:
    """What a server says of itself."""
    return schemathesis.openapi.from_url(f"{server.api.address}/openapi.json")


schema = schemathesis.pytest.from_fixture("api")


@schema.parametrize()
@settings(max_examples=EXAMPLES, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
def test_every_answer_is_one_that_the_document_describes(case: schemathesis.Case) -> None:
    """No 5xx, no status, type or body outside the schema."""
    case.call_and_validate(checks=CHECKS)


def test_the_document_has_the_events_own_schemas(api: BaseSchema) -> None:
    """The ingestion routes take what the topics take."""
    schemas = api.raw_schema["components"]["schemas"]
    for model in (Interaction, Search):
        assert schemas[model.__name__]["properties"].keys() == model.model_fields.keys()
    assert schemas["Interaction"]["required"] == ["feature_id", "interaction_type"]
