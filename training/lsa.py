"""The built-in embedding: TF-IDF of words and of the title's spelling, reduced by a truncated SVD (LSA).

It needs no download and no GPU, and is fitted on a corpus in seconds. Method: Deerwester et al., "Indexing by Latent
Semantic Analysis", 1990.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer

from clickwell.errors import InputError
from clickwell.training.encoders import Arrays, Matrix, unit

# Larger ones keep more of the words and leave less for clicks to teach: docs/training.md has figures.
DIMENSIONS = 256
# The title's words are among the words already: its spelling only has to catch inflections, typing errors and parts of
# names, so it weighs half.
SPELLING_WEIGHT = 0.5
# Enough for half a million documents, and keeps the saved model below 110 MB.
MAX_TERMS = 100_000
# What stands after this many characters of a first line is a text, not a title.
TITLE_CHARS = 120


class Lsa:
    """TF-IDF and SVD as fitted on a corpus; a document's title is the first line of its text."""

    kind = "lsa"

    def __init__(self, words: TfidfVectorizer, spelling: TfidfVectorizer, components: Matrix) -> None:
        self._words = words
        self._spelling = spelling
        self._components = components

    @classmethod
    def fit(cls, texts: Sequence[str], *, dimensions: int = DIMENSIONS, seed: int = 0) -> "Lsa":
        """Fit on documents; fewer documents than dimensions give fewer dimensions.

        Raises:
            InputError: there are fewer than two documents, or no words in them.
        """
        words, spelling = _vectorizers()
        try:
            words.fit(texts)
            spelling.fit([_title(text) for text in texts])
        except ValueError as error:
            raise InputError(f"the corpus cannot be embedded: {error}", fix="name a corpus with text") from None
        features = _features(words, spelling, texts)
        dimensions = min(dimensions, len(texts) - 1, features.shape[1] - 1)
        if dimensions < 1:
            raise InputError("the corpus is too small to be embedded", fix="name a corpus of two documents or more")
        svd = TruncatedSVD(dimensions, n_iter=4, random_state=seed).fit(features)
        # Half the digits are as good in every figure and halve the file; rounded here, so that a reload is exact.
        return cls(words, spelling, svd.components_.astype(np.float16).astype(np.float32))

    @classmethod
    def restore(cls, arrays: Arrays) -> "Lsa":
        """Make it again from the arrays of `save`."""
        words, spelling = _vectorizers(_unpacked(arrays["words"]), _unpacked(arrays["spelling"]))
        words.idf_ = arrays["words_idf"]
        spelling.idf_ = arrays["spelling_idf"]
        return cls(words, spelling, arrays["components"].astype(np.float32))

    def encode_query(self, texts: Sequence[str]) -> Matrix:
        """Return one row for each query; 0 where no word or part of a title is known."""
        return self._encode(texts)

    def encode_document(self, texts: Sequence[str]) -> Matrix:
        """Return one row for each document."""
        return self._encode(texts)

    def save(self, folder: Path) -> tuple[dict[str, Any], Arrays]:  # noqa: ARG002  # see Encoder
        """Return the terms, their weights and the projection."""
        return {"dimensions": len(self._components)}, {
            "words": _packed(self._words),
            "words_idf": self._words.idf_,
            "spelling": _packed(self._spelling),
            "spelling_idf": self._spelling.idf_,
            "components": self._components.astype(np.float16),
        }

    def _encode(self, texts: Sequence[str]) -> Matrix:
        if not texts:
            return np.zeros((0, len(self._components)), np.float32)
        return unit(_features(self._words, self._spelling, texts) @ self._components.T)


def _vectorizers(
    words: list[str] | None = None, spelling: list[str] | None = None
) -> tuple[TfidfVectorizer, TfidfVectorizer]:
    common = {"sublinear_tf": True, "dtype": np.float32, "max_features": MAX_TERMS}
    return (
        TfidfVectorizer(**common, vocabulary=words),
        TfidfVectorizer(**common, vocabulary=spelling, analyzer="char_wb", ngram_range=(3, 4)),
    )


def _features(words: TfidfVectorizer, spelling: TfidfVectorizer, texts: Sequence[str]) -> sp.csr_array:
    parts = [words.transform(texts), spelling.transform([_title(text) for text in texts]) * SPELLING_WEIGHT]
    return sp.csr_array(sp.hstack(parts, format="csr"))


def _title(text: str) -> str:
    return text.partition("\n")[0][:TITLE_CHARS]


def _packed(vectorizer: TfidfVectorizer) -> NDArray[np.uint8]:
    """Return the terms as bytes, one a line: no term has a line break, and no array of objects needs a pickle."""
    return np.frombuffer("\n".join(vectorizer.get_feature_names_out()).encode(), np.uint8)


def _unpacked(terms: NDArray[np.uint8]) -> list[str]:
    return terms.tobytes().decode().split("\n")
