"""All of a sentence-transformers model, trained on the pairs; needs the extra `train`, which brings torch."""

from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from clickwell.errors import UsageError
from clickwell.training.encoders import Arrays, Matrix, unit
from clickwell.training.model import Model, trained_on
from clickwell.training.pairs import TrainingPairs

# What the library's authors use for short texts; one pass, as more of them learn the clicks that were mistakes too.
BATCH = 64
EPOCHS = 1
LEARNING_RATE = 2e-5
WARMUP = 0.1
FOLDER = "encoder"


class Whole:
    """A sentence-transformers model, by its name or the folder it was saved in."""

    kind = "sentence-transformers"

    def __init__(self, name: str, folder: Path | None = None) -> None:
        """Load it.

        Raises:
            UsageError: the extra is not installed, or there is no such model.
        """
        self.name = name
        try:
            from sentence_transformers import SentenceTransformer

            self.model: Any = SentenceTransformer(str(folder or name))
        except ImportError:
            raise UsageError("sentence-transformers is not installed", fix="pip install 'clickwell[train]'") from None
        except (OSError, ValueError) as error:
            raise UsageError(f"there is no model {name}", why=" ".join(str(error).split())[:300]) from None

    def encode_query(self, texts: Sequence[str]) -> Matrix:
        """Return one row for each query."""
        return unit(self.model.encode_query(list(texts), show_progress_bar=False))

    def encode_document(self, texts: Sequence[str]) -> Matrix:
        """Return one row for each document."""
        return unit(self.model.encode_document(list(texts), show_progress_bar=False))

    def save(self, folder: Path) -> tuple[dict[str, Any], Arrays]:
        """Write the model beside what is returned."""
        self.model.save_pretrained(str(folder / FOLDER))
        return {"name": self.name}, {}


def train(
    name: str, pairs: TrainingPairs, texts: Sequence[str], *, seed: int, advance: Callable[[str], None] = lambda _: None
) -> Model:
    """Train by in-batch negatives (Henderson et al., 2017) and one hard negative a pair.

    Args:
        name: of the model, or its folder.
        pairs: over the rows of `texts`.
        texts: of the documents.
        seed: of every draw.
        advance: called with a few words before the training starts; the library shows its own progress.

    Raises:
        UsageError: the extra is not installed, or there is no such model.
    """
    base = Whole(name)
    from datasets import Dataset
    from sentence_transformers import SentenceTransformerTrainer, SentenceTransformerTrainingArguments
    from sentence_transformers.losses import MultipleNegativesRankingLoss
    from sentence_transformers.training_args import BatchSamplers

    rows = tuples(pairs, texts, seed=seed)
    advance(f"{len(rows['anchor']):,} pairs")
    # Nothing is kept there, but the library makes the folder.
    with TemporaryDirectory(prefix="clickwell-train-") as scratch:
        SentenceTransformerTrainer(
            model=base.model,
            args=SentenceTransformerTrainingArguments(
                output_dir=scratch,
                num_train_epochs=EPOCHS,
                per_device_train_batch_size=BATCH,
                learning_rate=LEARNING_RATE,
                warmup_ratio=WARMUP,
                # A document twice in a batch would be a negative of its own query.
                batch_sampler=BatchSamplers.NO_DUPLICATES,
                save_strategy="no",
                report_to="none",
                seed=seed,
            ),
            train_dataset=Dataset.from_dict(rows),
            loss=MultipleNegativesRankingLoss(base.model),
        ).train()
    facts = {"method": "full", "base": name, "positive_pairs": len(rows["anchor"]), "epochs": EPOCHS, "seed": seed}
    return Model(base, None, facts, *trained_on(pairs))


def tuples(pairs: TrainingPairs, texts: Sequence[str], *, seed: int) -> dict[str, list[str]]:
    """Return anchor, positive and one negative a pair: a hard one of the query, else one not known to be good."""
    rng = np.random.default_rng(seed)
    hard: dict[int, list[int]] = {}
    for query, document in pairs.negatives.tolist():
        hard.setdefault(query, []).append(document)
    good = {(query, document) for query, document in pairs.positives.tolist()}
    rows: dict[str, list[str]] = {"anchor": [], "positive": [], "negative_1": []}
    for query, document in pairs.positives.tolist():
        choice = hard.get(query) or [
            row for row in rng.integers(len(texts), size=16).tolist() if (query, row) not in good
        ]
        if choice:
            rows["anchor"].append(pairs.queries[query])
            rows["positive"].append(texts[document])
            rows["negative_1"].append(texts[choice[rng.integers(len(choice))]])
    return rows
