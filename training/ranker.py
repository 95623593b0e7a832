"""Order results by what is counted and known about them: LambdaMART that learns the bias of positions beside relevance.

LightGBM fits trees to the clicks and, in the same pass, a term for each position, so that a click at the top proves
less than one further down. Trees: Burges, "From RankNet to LambdaRank to LambdaMART", 2010.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightgbm as lgb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from clickwell.errors import InputError, UsageError
from clickwell.training.metrics import Floats, K

NOT_FEATURES = frozenset({"execution_id", "query_key", "query", "feature_id", "position", "label", "timestamp"})
# Few and shallow trees: there are a handful of features, and clicks are noisy labels.
PARAMETERS: Mapping[str, Any] = {
    "objective": "lambdarank",
    "metric": "ndcg",
    "eval_at": [K],
    "num_leaves": 15,
    "learning_rate": 0.05,
    "min_data_in_leaf": 100,
    # Pulls the terms of positions with few clicks towards none.
    "lambdarank_position_bias_regularization": 0.1,
    "deterministic": True,
    "force_row_wise": True,
    "verbosity": -1,
}
ROUNDS = 300
PATIENCE = 20
HELD_BACK = 0.15


@dataclass(frozen=True)
class Ranker:
    """Trees over named features.

    Attributes:
        booster: LightGBM's.
    """

    booster: lgb.Booster

    @property
    def features(self) -> list[str]:
        """Names, in the order that the trees know them."""
        names: list[str] = self.booster.feature_name()
        return names

    def score(self, results: Sequence[Any]) -> Floats:
        """Return a score for each result, higher first; `rerank(..., ranker=ranker)` orders by it.

        Args:
            results: mappings or objects with the features as fields; one that is absent or None counts as not known.
        """
        if not results:
            return np.zeros(0)
        rows = np.array([[_value(result, name) for name in self.features] for result in results], np.float64)
        scores: Floats = np.asarray(self.booster.predict(rows))
        return scores

    def save(self, path: Path) -> None:
        """Write the trees as LightGBM's text, which other languages read too."""
        path.write_text(self.booster.model_to_string(), encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> "Ranker":
        """Read trees.

        Raises:
            InputError: the file cannot be read, or holds no trees.
        """
        try:
            return cls(lgb.Booster(model_str=path.read_text(encoding="utf-8")))
        except (OSError, UnicodeDecodeError, lgb.basic.LightGBMError) as error:
            raise InputError(f"{path} is not a ranker: {error}", fix="write one by Ranker.save") from None


def rank(
    training_data: pa.Table | Path | str,
    *,
    features: Sequence[str] = (),
    given: pa.Table | None = None,
    seed: int = 0,
    advance: Callable[[str], None] = lambda _: None,
) -> Ranker:
    """Train a ranker on impressions.

    Args:
        training_data: folder of a pairs export, of which the training part is read, or a table: one row for each
            impression with `execution_id`, `feature_id`, `position`, `label` (0 nothing, more is better) and features.
        features: columns to use; every numeric one when empty.
        given: further features of documents, by `feature_id`: freshness, price, whatever is known when a list is shown.
        seed: of which searches are held back, to stop in time.
        advance: called at the end with a few words.

    Raises:
        InputError: the data cannot be read, lacks a column, or has no search with both a click and none.
        UsageError: a feature is not among the columns.
    """
    table = _joined(_table(training_data), given)
    numeric = [
        field.name
        for field in table.schema
        if field.name not in NOT_FEATURES
        and (pa.types.is_integer(field.type) or pa.types.is_floating(field.type) or pa.types.is_boolean(field.type))
    ]
    if unknown := set(features) - set(numeric):
        raise UsageError(f"{', '.join(sorted(unknown))} is no numeric column", fix=f"choose from {', '.join(numeric)}")
    names = list(features or numeric)
    if not names:
        raise InputError("there is no feature", fix="add numeric columns, or hand some over as `given`")
    searches = np.unique(table["execution_id"].to_numpy(zero_copy_only=False), return_inverse=True)[1]
    held = np.random.default_rng(seed).random(searches.max() + 1) < HELD_BACK
    parts = [table.filter(pa.array(mask)) for mask in (~held[searches], held[searches])]
    train, validation = (_dataset(part, names) for part in parts)
    booster = lgb.train(
        {**PARAMETERS, "seed": seed},
        train,
        num_boost_round=ROUNDS,
        valid_sets=[validation],
        callbacks=[lgb.early_stopping(PATIENCE, verbose=False)],
    )
    advance(f"{booster.best_iteration} trees over {', '.join(names)}")
    return Ranker(lgb.Booster(model_str=booster.model_to_string(num_iteration=booster.best_iteration)))


def _table(source: pa.Table | Path | str) -> pa.Table:
    if isinstance(source, pa.Table):
        table = source
    else:
        path = Path(source)
        path = (path / "train" if (path / "train").is_dir() else path) / "ltr.parquet" if path.is_dir() else path
        try:
            table = pq.read_table(path)
        except (OSError, pa.ArrowInvalid) as error:
            raise InputError(f"{path} cannot be read: {error}", fix="write it by `clickwell pairs export`") from None
    if lost := {"execution_id", "feature_id", "position", "label"} - set(table.column_names):
        raise InputError(f"the impressions lack {', '.join(sorted(lost))}", fix="see docs/training.md")
    clicks = table.group_by("execution_id").aggregate([("label", "max"), ("label", "min")])
    telling = clicks.filter(pc.greater(clicks["label_max"], clicks["label_min"]))["execution_id"]
    table = table.filter(pc.is_in(table["execution_id"], telling.combine_chunks()))
    if not table.num_rows:
        raise InputError("no search has a result that was clicked and one that was not")
    return table.sort_by([("execution_id", "ascending"), ("position", "ascending")])


def _joined(table: pa.Table, given: pa.Table | None) -> pa.Table:
    if given is None:
        return table
    joined = table.join(given, "feature_id", join_type="left outer")
    return joined.sort_by([("execution_id", "ascending"), ("position", "ascending")])


def _dataset(table: pa.Table, features: Sequence[str]) -> lgb.Dataset:
    columns = [np.asarray(pc.cast(table[name], pa.float64()).to_numpy(zero_copy_only=False)) for name in features]
    names: NDArray[Any] = table["execution_id"].to_numpy(zero_copy_only=False)
    starts = np.flatnonzero(np.append(True, names[1:] != names[:-1]))
    return lgb.Dataset(
        np.stack(columns, axis=1),
        label=table["label"].to_numpy(zero_copy_only=False),
        group=np.diff(starts, append=len(names)),
        position=table["position"].to_numpy(zero_copy_only=False),
        feature_name=list(features),
        free_raw_data=False,
    )


def _value(result: Any, name: str) -> float:
    value = result.get(name) if isinstance(result, Mapping) else getattr(result, name, None)
    return np.nan if value is None else float(value)
