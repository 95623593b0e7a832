"""Models of every kind of base: saved, loaded, refused."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from clickwell import training
from clickwell.errors import InputError, UsageError
from clickwell.schemas.keys import normal_query
from clickwell.training.corpus import Corpus, read_corpus, read_qrels, read_queries
from clickwell.training.encoders import Vectors
from clickwell.training.model import Model, marks
from clickwell.training.pairs import TrainingPairs
from clickwell.training.transformers import tuples

COLOURS = ("red", "green", "blue", "black", "white", "amber", "violet", "olive")
THINGS = ("shoes", "boots", "jacket", "tent", "lamp", "stove", "rope", "helmet")
CORPUS = Corpus(
    [f"{colour}-{thing}" for colour in COLOURS for thing in THINGS],
    [f"{colour} {thing}\nfor days out, number {i}" for i, colour in enumerate(COLOURS) for thing in THINGS],
)
# People ask by the next thing's name: only clicks can tell. The document of that name is the hard negative.
ROWS = [(f"{c} {THINGS[i - 1]}", f"{c}-{t}", f"{c}-{THINGS[i - 1]}") for c in COLOURS for i, t in enumerate(THINGS)]


@pytest.fixture(scope="module")
def model():
    """A model that has learned."""
    trained = training.fine_tune("lsa", ROWS, corpus=CORPUS)
    assert trained.matrix is not None
    return trained


def test_a_reloaded_model_gives_the_same_bits(model, tmp_path):
    """Vectors of queries and documents are equal bit for bit after a reload, and saving again gives the same file."""
    model.save(tmp_path / "model")
    again = Model.load(tmp_path / "model")
    texts = ["red wellies", "a word that nobody knows", ""]
    assert np.array_equal(again.encode_query(texts), model.encode_query(texts))
    assert np.array_equal(again.encode_document(CORPUS.texts), model.encode_document(CORPUS.texts))
    assert again.encode_query("red wellies").shape == (model.encode_query(texts).shape[1],)
    assert np.array_equal(again.trained_queries, np.sort(marks(row[0] for row in ROWS)))
    assert again.training == model.training
    before = (tmp_path / "model" / "arrays.npz").read_bytes()
    again.save(tmp_path / "model")
    assert (tmp_path / "model" / "arrays.npz").read_bytes() == before
    assert "| method | adapter |" in (tmp_path / "model" / "README.md").read_text()


def test_a_damaged_model_is_refused(model, tmp_path):
    """A folder that holds something else is not overwritten, and one that lacks a part is not loaded."""
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="holds no model"):
        model.save(tmp_path)
    folder = tmp_path / "model"
    model.save(folder)
    (folder / "arrays.npz").write_bytes((folder / "arrays.npz").read_bytes()[:1000])
    with pytest.raises(InputError, match="is not a model"):
        Model.load(folder)
    (folder / "model.json").write_text(json.dumps({"format": 99}))
    with pytest.raises(InputError, match="format 99"):
        Model.load(folder)


def test_any_function_can_be_the_base(model, tmp_path):
    """Training over a function that gives vectors is training over these vectors; loading needs the function again."""
    over = training.fine_tune(model.base.encode_query, ROWS, corpus=CORPUS)
    assert np.allclose(over.matrix, model.matrix, atol=1e-3)
    over.save(tmp_path / "model")
    with pytest.raises(UsageError, match="made over a function"):
        Model.load(tmp_path / "model")
    again = Model.load(tmp_path / "model", base=over.base)
    assert np.array_equal(again.encode_query(["red hat"]), over.encode_query(["red hat"]))
    with pytest.raises(UsageError, match="vectors of shape"):
        training.fine_tune(lambda texts: np.zeros((1, 3)), ROWS, corpus=CORPUS)


def test_vectors_from_parquet_can_be_the_base(model, tmp_path):
    """Vectors by text or by id train the same adapter, are saved with the model, and a text without one is named."""
    queries = [row[0] for row in ROWS]
    files = tmp_path / "queries.parquet", tmp_path / "documents.parquet"
    pq.write_table(pa.table({"text": queries, "vector": model.base.encode_query(queries).tolist()}), files[0])
    documents = {"id": CORPUS.ids, "vector": model.base.encode_document(CORPUS.texts).tolist()}
    pq.write_table(pa.table(documents), files[1])
    base = Vectors.read(files, dict(zip(CORPUS.ids, CORPUS.texts, strict=True)))
    over = training.fine_tune(base, ROWS, corpus=CORPUS)
    assert np.allclose(over.matrix, model.matrix, atol=1e-3)
    over.save(tmp_path / "model")
    assert np.array_equal(Model.load(tmp_path / "model").encode_query(queries), over.encode_query(queries))
    with pytest.raises(InputError, match="1 of 1 texts have no vector, such as 'purple rain'"):
        over.encode_query(["purple rain"])
    with pytest.raises(InputError, match="ids without text"):
        Vectors.read(files)


def test_every_form_of_training_data_is_the_same_data(tmp_path):
    """Rows, mappings, JSON lines, Parquet and a folder of an export give the same pairs; repeats count once."""
    expected = TrainingPairs.read(ROWS)
    named = [dict(zip(("anchor", "positive", "negative_1"), row, strict=True)) for row in [*ROWS, ROWS[0]]]
    (tmp_path / "tuples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in named))
    pq.write_table(pa.Table.from_pylist(named), tmp_path / "tuples.parquet")
    judged = [(q, p, "positive") for q, p, _ in ROWS] + [(q, n, "hard_negative") for q, _, n in ROWS]
    (tmp_path / "export" / "train").mkdir(parents=True)
    table = pa.table(dict(zip(("query", "feature_id", "label"), map(list, zip(*judged, strict=True)), strict=True)))
    pq.write_table(table, tmp_path / "export" / "train" / "pairs.parquet")

    def content(pairs):
        return [
            {(pairs.queries[q], pairs.documents[d]) for q, d in part.tolist()}
            for part in (pairs.positives, pairs.negatives)
        ]

    for source in (named, tmp_path / "tuples.jsonl", str(tmp_path / "tuples.parquet"), tmp_path / "export"):
        assert content(TrainingPairs.read(source)) == content(expected)
    with pytest.raises(InputError, match="row 1 is not"):
        TrainingPairs.read([{"anchor": "red", "positive": None}])
    with pytest.raises(InputError, match="no positive pair"):
        TrainingPairs.read([])


def test_pairs_without_a_document_are_counted():
    """A pair whose document the corpus lacks is left out and counted; if all are, that is said."""
    model = training.fine_tune("lsa", [*ROWS, ("red sofa", "red-sofa", "blue-sofa")], corpus=CORPUS)
    assert model.training["pairs_without_document"] == 2
    with pytest.raises(UsageError, match="no document of the pairs"):
        training.fine_tune("lsa", [("red sofa", "red-sofa")], corpus=CORPUS)
    with pytest.raises(UsageError, match="fitted on a corpus and none"):
        training.fine_tune("lsa", ROWS)


def test_files_are_read_and_their_faults_named(tmp_path):
    """Corpus, queries and grades are read as people write them, and a fault is told with its line."""
    corpus = tmp_path / "corpus.jsonl"
    corpus.write_text('{"id": 7, "overview": "o", "title": "t", "tags": ["a", "b"], "votes": 3}\n')
    assert read_corpus(corpus) == Corpus(["7"], ["t\no a b"])
    corpus.write_text('{"id": "7"}\n{"title": "t"}\n')
    with pytest.raises(InputError, match="line 2 has none of id"):
        read_corpus(corpus)
    corpus.write_text('{"id": "7"}\n{"id": "7"}\n')
    with pytest.raises(InputError, match="twice"):
        read_corpus(corpus)
    (tmp_path / "queries.jsonl").write_text('{"query_id": "q1", "query": "red shoes"}\n')
    assert read_queries(tmp_path / "queries.jsonl") == {"q1": "red shoes"}
    qrels = tmp_path / "qrels.txt"
    for text in ("query_id\tdoc_id\tgrade\nq1\td1\t1\n", "q1 0 d1 1\n"):
        qrels.write_text(text)
        assert read_qrels(qrels) == {"q1": {"d1": 1.0}}
    qrels.write_text("q1 0 d1 1\nq1 0 d2 good\n")
    with pytest.raises(InputError, match="line 2 is no judgement"):
        read_qrels(qrels)


def test_whole_models_learn_from_hard_negatives():
    """Each pair gets a hard negative of its query; where there is none, a document that is not known to be good."""
    pairs, texts, _ = TrainingPairs.read([*ROWS, ("cap", "red-helmet")]).placed(CORPUS)
    rows = tuples(pairs, texts, seed=0)
    of = dict(zip(CORPUS.ids, CORPUS.texts, strict=True))
    hard = {(query, of[good], of[bad]) for query, good, bad in ROWS}
    found = set(zip(*rows.values(), strict=True))
    assert hard <= found
    ((anchor, positive, negative),) = found - hard
    assert (anchor, positive) == ("cap", of["red-helmet"])
    assert negative != positive
    assert normal_query(anchor) == "cap"
