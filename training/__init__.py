"""From the lake to models: pairs into adapters and rankers, and the proof that they help.

```python
from clickwell import training

model = training.fine_tune("lsa", "pairs", corpus="corpus.jsonl")
found = training.evaluate(model, corpus="corpus.jsonl", queries="queries.jsonl", qrels="qrels.tsv")
if found.gate.ship:
    model.save(Path("model"))
```
Needs no Kafka and no Redis. The public names are loaded on first use: scikit-learn and LightGBM load only for those who
train.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from clickwell.training.evaluation import evaluate
    from clickwell.training.model import Model
    from clickwell.training.offline import evaluate_offline
    from clickwell.training.ranker import Ranker, rank
    from clickwell.training.tuning import fine_tune

_HOMES = {
    "Model": "clickwell.training.model",
    "Ranker": "clickwell.training.ranker",
    "evaluate": "clickwell.training.evaluation",
    "evaluate_offline": "clickwell.training.offline",
    "fine_tune": "clickwell.training.tuning",
    "rank": "clickwell.training.ranker",
}

__all__ = ["Model", "Ranker", "evaluate", "evaluate_offline", "fine_tune", "rank"]


def __getattr__(name: str) -> Any:
    """Import a public name from its home module on first use."""
    if name not in _HOMES:
        raise AttributeError(f"module 'clickwell.training' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
