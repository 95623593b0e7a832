"""Impressions for learning to rank: groups, positions, graded labels, and features that were known at the time."""

import duckdb
import numpy as np
import pyarrow as pa

from clickwell.analytics.click_models import ClickModel
from clickwell.analytics.impressions import at_position, rows

FEATURES = ("impressions_before", "exposure_before", "clicks_before", "corrected_ctr_before", "document_ctr_before")
"""Of the pair, the last one of the document over all queries; in `ltr.svm` they are features 1 to 5."""

COLUMNS = ("execution_id", "query_key", "feature_id", "position", "label", *FEATURES)


def known_before(shown: duckdb.DuckDBPyRelation, model: ClickModel) -> duckdb.DuckDBPyRelation:
    """Return the impressions of searches with a click, with `COLUMNS`.

    Args:
        shown: what features are counted in, always up to an hour before the search: what an hourly job would know, and
            free of what the same visit did next.
        model: what turns clicks into relevance.
    """
    numbers = {"theta": at_position(model.theta), "prior": at_position(model.prior), "a": model.a}
    rows(shown, _KNOWN.format(**numbers)).create("known")
    return rows(shown, "select * from known")


def ranking_rows(part: duckdb.DuckDBPyRelation, known: duckdb.DuckDBPyRelation) -> pa.Table:
    """Return what `known_before` tells of the searches of a part, ordered by time, search and position."""
    wanted = rows(part, "select distinct execution_id from shown").set_alias("wanted")
    found = known.set_alias("known").join(wanted, "execution_id", how="semi").order("timestamp, execution_id, position")
    return found.select(*COLUMNS).to_arrow_table()


def groups(table: pa.Table) -> list[int]:
    """Return how many rows each search has, in order."""
    _, first = np.unique(table["execution_id"].to_numpy(zero_copy_only=False), return_index=True)
    return [int(size) for size in np.diff(np.append(np.sort(first), len(table)))]


def svm_lines(table: pa.Table) -> bytes:
    """Return the rows in the format of SVMrank and LightGBM: `label qid:N 1:... # feature_id`."""
    number = np.repeat(np.arange(1, len(sizes := groups(table)) + 1), sizes)
    values = [table[name].to_pylist() for name in FEATURES]
    names = [" ".join(name.split()) for name in table["feature_id"].to_pylist()]
    lines = zip(table["label"].to_pylist(), number.tolist(), *values, names, strict=True)
    return "".join(
        f"{label} qid:{qid} 1:{shown} 2:{exposure:.6g} 3:{clicks} 4:{ctr:.6g} 5:{document:.6g} # {name}\n"
        for label, qid, shown, exposure, clicks, ctr, document, name in lines
    ).encode()


_KNOWN = """
with valued as (
  select *, {theta} as theta, {prior} as prior,
         case when strength >= 3 then 3 when strength >= 2 then 2 when clicked then 1 else 0 end as label
  from shown
), counted as (
  select *, count(*) over pair as impressions_before, coalesce(sum(theta) over pair, 0)::double as exposure_before,
         (count(*) filter (clicked) over pair) as clicks_before,
         coalesce(sum(theta) over document, 0)::double as document_exposure,
         (count(*) filter (clicked) over document) as document_clicks
  from valued
  window pair as (partition by query_key, feature_id order by timestamp
                  range between unbounded preceding and interval 1 hour preceding),
         document as (partition by feature_id order by timestamp
                      range between unbounded preceding and interval 1 hour preceding)
)
select execution_id, timestamp, query_key, feature_id, position, label, impressions_before,
       round(exposure_before, 9) as exposure_before, clicks_before,
       round(least((clicks_before + {a} * prior::double) / (exposure_before + {a}), 1), 9) as corrected_ctr_before,
       round(least((document_clicks + {a} * avg_prior) / (document_exposure + {a}), 1), 9) as document_ctr_before
from counted
semi join (select execution_id from shown where clicked) as wanted on counted.execution_id = wanted.execution_id
cross join (select sum(prior)::double / count(*) as avg_prior from valued)
"""
