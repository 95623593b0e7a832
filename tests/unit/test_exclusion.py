"""The filters against engines, or against what their documentation says."""

import duckdb
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clickwell.serving.exclusion import Consumption, Exclusion
from clickwell.serving.personalize import without


def exclusion(*ids, **fields):
    return Exclusion(Consumption("u", ids, ["purchase"] * len(ids), range(9, 9 - len(ids), -1), 0), **fields)


def test_the_forms():
    """Each engine gets its own language, the field is named by the caller, a document stands once."""
    found = exclusion("b", "a", "b", field="sku")
    assert found.filter == {"sku": {"$nin": ["b", "a"]}}
    assert found.opensearch() == {"bool": {"must_not": [{"terms": {"sku": ["b", "a"]}}]}}
    assert found.qdrant() == {"must_not": [{"key": "sku", "match": {"any": ["b", "a"]}}]}
    assert found.as_dict()["count"] == 2


@pytest.mark.parametrize("ids", [(), ("a",), ("a", "it's", '"; drop table t', "日本")])
def test_sql_excludes_these_and_no_others(ids):
    """The condition with its parameters runs in a database and lets everything else through, null too."""
    condition, parameters = exclusion(*ids).sql()
    stored = [*ids, "other", None]
    with duckdb.connect() as database:
        database.execute("create table t (document_id varchar)")
        database.executemany("insert into t values (?)", [[value] for value in stored])
        found = database.execute(f"select document_id from t where {condition}", parameters).fetchall()
    assert {value for (value,) in found} == {"other", None}


@given(st.lists(st.sampled_from("abcdef")), st.lists(st.sampled_from("abcdef")))
def test_without_keeps_the_rest_in_order(results, gone):
    """Exactly the excluded documents are left out, the others keep their order."""
    assert without(results, results, exclusion(*gone)) == [one for one in results if one not in gone]
