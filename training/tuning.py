"""From pairs to a model: one call."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike

from clickwell.errors import UsageError
from clickwell.settings import Settings
from clickwell.training import adapter
from clickwell.training.corpus import Corpus, read_corpus
from clickwell.training.encoders import Encoder, Function, Vectors
from clickwell.training.model import FACTS, Model, trained_on
from clickwell.training.pairs import TrainingPairs

Base = str | Path | Encoder | Callable[[Sequence[str]], ArrayLike]
"""`lsa`; a saved model; a Parquet file of vectors; the name of a model behind the endpoint; a function; an encoder."""


def fine_tune(
    base_model: Base,
    training_data: Any,
    *,
    corpus: Corpus | Path | str | None = None,
    method: Literal["adapter", "full"] = "adapter",
    seed: int = 0,
    settings: Settings | None = None,
    advance: Callable[[str], None] = lambda _: None,
) -> Model:
    """Teach an embedding what clicks say, and return the model; the base itself where nothing was gained.

    ```python
    model = training.fine_tune("lsa", "pairs", corpus="corpus.jsonl")
    model = training.fine_tune("text-embedding-3-small", "pairs", corpus="corpus.jsonl")  # any /v1/embeddings
    model = training.fine_tune(SentenceTransformer("...").encode, rows)  # any encode(texts)
    model.save(Path("model"))
    ```

    Args:
        base_model: see `Base`.
        training_data: see `TrainingPairs.read`.
        corpus: documents, or their file; needed where the pairs name documents by id, and by `lsa`. Negatives are also
            drawn from it at random.
        method: `adapter` leaves the base untouched; `full` trains all of a sentence-transformers model, which
            `base_model` names, and needs the extra `train`.
        seed: of every draw; same seed and data, same model.
        settings: where the endpoint is.
        advance: called now and then with a few words about the progress.

    Raises:
        UsageError: the base is not known, a corpus is needed, or no pair's document is in it.
        InputError: a file cannot be read or the data holds no positive pair.
        DependencyError: the endpoint does not answer.
    """
    pairs = TrainingPairs.read(training_data)
    documents = read_corpus(Path(corpus)) if isinstance(corpus, (str, Path)) else corpus
    placed, texts, lost = pairs.placed(documents)
    if method == "full":
        from clickwell.training.transformers import train

        return train(str(base_model), placed, texts, seed=seed, advance=advance)
    base = encoder_of(base_model, documents, settings=settings, seed=seed)
    advance(f"vectors of {len(placed.queries):,} queries and {len(texts):,} documents")
    examples = adapter.Examples(
        base.encode_query(placed.queries),
        base.encode_document(texts),
        placed.positives,
        placed.negatives,
    )
    fit = adapter.fit(examples, seed=seed, advance=advance)
    facts = {
        "method": "adapter",
        "queries": len(np.unique(placed.positives[:, 0])),
        "positive_pairs": len(placed.positives),
        "hard_negative_pairs": len(placed.negatives),
        "pairs_without_document": lost,
        "documents": len(texts),
        "seed": seed,
        "epochs": fit.epochs,
        "held_back_ndcg@10_before": fit.before,
        "held_back_ndcg@10_after": fit.after,
        "held_back_gain_low": fit.low,
        "adapter": "identity" if fit.matrix is None else "trained",
    }
    return Model(base, fit.matrix, facts, *trained_on(placed))


def encoder_of(base: Base, corpus: Corpus | None, *, settings: Settings | None = None, seed: int = 0) -> Encoder:
    """Return the source of vectors that a name or an object stands for.

    Raises:
        UsageError: `lsa` without a corpus.
        InputError: a file cannot be read.
    """
    if not isinstance(base, (str, Path)):
        return _encoder(base)
    if base == "lsa":
        from clickwell.training.lsa import Lsa

        if corpus is None:
            raise UsageError("lsa is fitted on a corpus and none is named", fix="name one: corpus=..., --corpus FILE")
        return Lsa.fit(corpus.texts, seed=seed)
    path = Path(base)
    if (path / FACTS).exists():
        return Model.load(path).base
    if path.suffix == ".parquet":
        return Vectors.read([path], dict(zip(corpus.ids, corpus.texts, strict=True)) if corpus else None)
    from clickwell.training.endpoint import Endpoint

    return Endpoint(str(base), (settings or Settings.load()).embeddings)


def _encoder(base: Any) -> Encoder:
    """Return an encoder, or make one of a function or of an object with the methods of sentence-transformers."""
    if hasattr(base, "kind"):
        encoder: Encoder = base
        return encoder
    query = getattr(base, "encode_query", None) or getattr(base, "encode", base)
    if not callable(query):
        raise UsageError(f"{base!r} gives no vectors", fix="hand over a function encode(texts)")
    return Function(query, getattr(base, "encode_document", None))
