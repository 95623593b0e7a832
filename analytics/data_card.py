"""The data card of an export: what is in it, how it was made, and what it must not be used for."""

from collections.abc import Mapping
from typing import Any

from clickwell.analytics.pairs import CREDIBLE, EXAMINED, MAX_WEIGHT, RANKED_HIGH, UNLIKELY
from clickwell.analytics.splits import TEST


def card(manifest: Mapping[str, Any]) -> str:
    """Return the card as Markdown, from the manifest alone."""
    options, found, left_out = manifest["options"], manifest["joined"], manifest["left_out"]
    theta = ", ".join(f"{value:.3f}" for value in manifest["propensities"]["theta"][:10])
    parts = "\n".join(
        f"| {name} | {part['queries']:,} | {part['positives']:,} | {part['hard_negatives']:,} | {part['tuples']:,} |"
        for name, part in manifest["parts"].items()
    )
    return f"""# Training data from clicks

Made by clickwell from searches between {manifest["first"]} and {manifest["last"]}{_of(options["retriever"])}.
Labels are inferred from behaviour; no person judged them.

| part | queries | positives | hard negatives | tuples |
|---|---|---|---|---|
{parts}

The parts share no query. Training and validation end at {manifest["cut"]}, where the {TEST} part begins.
`audit.parquet` judges all of the range at once: it is for looking at, not for training.

## From what
- {found["searches"]:,} searches, {found["impressions"]:,} impressions, {found["clicks"]:,} of them clicked.
- Not used: {found["clicks_without_execution"]:,} clicks without an execution_id,
  {found["clicks_without_search"]:,} without a known search,
  {found["clicks_outside_list"]:,} on documents that the search did not show.
- {found["position_disagreements"]:,} clicks told another position than the search's list; the list was believed.
- Searches left out: {left_out["without_query"]:,} without a query, {left_out["bursts"]:,} of bursts,
  {left_out["clickers"]:,} of visitors who opened half of all, {left_out["repeats"]:,} repeats of a query by one person,
  {left_out["heavy"]:,} of heavy users.

## How
- Examination by position, first ten: {theta}.
  {manifest["propensities"]["note"]}.
- Relevance: (credit + a * prior) / (exposure + a), a = {manifest["prior_weight"]:g};
  exposure is the sum of examination over the impressions; the prior comes from the ranks and the query's other
  documents; long views and purchases earn more credit than clicks, clicks from which people came straight back less.
- Positive: clicked, at least {options["min_interactions"]} interactions, relevance >= {CREDIBLE}.
- Hard negative: ranked among the first {RANKED_HIGH}, examined >= {EXAMINED:g} times, never really chosen,
  relevance < {UNLIKELY}.
- Weight: 1 / propensity, at most {MAX_WEIGHT:g}.

## What it is not
- Not ground truth: on simulated clicks with human labels about one positive in six is not relevant, and one hard
  negative in twenty-five is.
- Not what nobody was shown: documents that were never ranked are neither positive nor negative here.
- Drawn negatives (after the hard ones of a tuple) were never shown for the query; nobody said that they do not fit.
"""


def _of(retriever: str | None) -> str:
    return f" of retriever {retriever}" if retriever else ""
