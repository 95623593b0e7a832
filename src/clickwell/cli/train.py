"""`clickwell fine-tune`, `evaluate`: teach an embedding what clicks say, and prove that it helped."""

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from clickwell.cli import output
from clickwell.cli.output import DataOption, JsonOption
from clickwell.errors import UsageError
from clickwell.settings import Settings

if TYPE_CHECKING:
    from clickwell.training.corpus import Corpus
    from clickwell.training.evaluation import Evaluation
    from clickwell.training.model import Model

NOT_BETTER = 3

CorpusOption = Annotated[
    Path, typer.Option("--corpus", metavar="FILE", help="JSON lines with an id and text, plain or gzip.")
]


def register(app: typer.Typer) -> None:
    """Add the commands to the application."""
    for name, command, examples in (
        (
            "fine-tune",
            fine_tune,
            (
                "clickwell fine-tune --corpus docs.jsonl --pairs pairs --base lsa --out model",
                "clickwell fine-tune --corpus docs.jsonl --pairs pairs --out model --json",
            ),
        ),
        (
            "evaluate",
            evaluate,
            (
                "clickwell evaluate --model m --corpus c.jsonl --queries q.tsv --qrels r.tsv",
                "clickwell evaluate --model model --corpus corpus.jsonl --retriever site",
            ),
        ),
    ):
        app.command(name=name, epilog=output.examples(*examples))(command)


def fine_tune(
    *,
    corpus: CorpusOption,
    pairs: Annotated[Path, typer.Option("--pairs", metavar="DIR", help="As `clickwell pairs export` writes it.")],
    out: Annotated[Path, typer.Option("--out", metavar="MODEL", help="A new folder, or a model to replace.")],
    base: Annotated[
        str,
        typer.Option("--base", help="lsa, a model, a Parquet file of vectors, or a model's name behind the endpoint."),
    ] = "lsa",
    full: Annotated[
        bool, typer.Option("--full", help="Train all of the sentence-transformers model that --base names.")
    ] = False,
    seed: Annotated[int, typer.Option(help="Of every draw.")] = 0,
    data: DataOption = None,
    json: JsonOption = False,
) -> None:
    """Train a model on pairs; the base itself comes back where nothing was gained."""
    _require("sklearn")
    from clickwell.training.corpus import read_corpus
    from clickwell.training.tuning import fine_tune as train

    method: Literal["adapter", "full"] = "full" if full else "adapter"
    with output.Progress("fine-tuning", None) as bar:

        def tell(words: str) -> None:
            bar.postfix(words)
            bar.advance()

        model = train(
            base,
            pairs,
            corpus=read_corpus(corpus),
            method=method,
            seed=seed,
            settings=Settings.load(data),
            advance=tell,
        )
        model.save(out)
    if model.training.get("adapter") == "identity":
        output.warn("nothing was gained on held-back queries: the model is its base", "export pairs of a longer time")
    output.done(f"{out}: {model.training['positive_pairs']:,} pairs over {base}")
    if json:
        output.emit({"model": str(out), "base": model.base.kind, **model.training})


def evaluate(
    *,
    model: Annotated[str, typer.Option("--model", metavar="MODEL", help="A model's folder; lsa for the bare base.")],
    corpus: CorpusOption,
    queries: Annotated[
        Path | None, typer.Option("--queries", metavar="FILE", help="JSON lines with query_id and query.")
    ] = None,
    qrels: Annotated[
        Path | None, typer.Option("--qrels", metavar="FILE", help="Query, document and grade, separated by tabs.")
    ] = None,
    report: Annotated[Path | None, typer.Option("--report", metavar="FILE", help="Also write a page of HTML.")] = None,
    gate: Annotated[bool, typer.Option("--gate", help="Exit with 3 unless the model may be shipped.")] = False,
    retriever: Annotated[
        str | None, typer.Option("--retriever", metavar="R", help="Whose log stands in, where there are no grades.")
    ] = None,
    data: DataOption = None,
    json: JsonOption = False,
) -> None:
    """Compare a model with its base: on judged queries, or by the clicks of the lake where there are none."""
    _require("sklearn")
    from clickwell.training.corpus import read_corpus, read_queries
    from clickwell.training.evaluation import evaluate as compare
    from clickwell.training.report import page

    if queries is None and qrels is None and report is None and not gate:
        _evaluate_offline(model, read_corpus(corpus), retriever, Settings.load(data), json=json)
        return
    if queries is None or qrels is None:
        raise UsageError("--queries and --qrels go together, and --report and --gate need them")
    documents, texts = read_corpus(corpus), read_queries(queries)
    with output.Progress("evaluating", None):
        found = compare(_model(model, documents), corpus=documents, queries=texts, qrels=qrels)
    if report is not None:
        _write(report, page(found, Path(model).name, texts))
    if json:
        output.emit({"model": model, **_summary(found)})
    else:
        _print(found)
    if gate and not found.gate.ship:
        raise typer.Exit(NOT_BETTER)


def _evaluate_offline(model: str, corpus: "Corpus", retriever: str | None, settings: Settings, *, json: bool) -> None:
    from clickwell.analytics.impressions import join_one
    from clickwell.analytics.propensities import estimate
    from clickwell.training.offline import evaluate_offline

    shown = join_one(settings, retriever).relation
    examined = estimate(shown)
    if not examined.identifiable:
        output.warn(f"examination is the declared prior: {examined.note}")
    with output.Progress("evaluating", None):
        found = evaluate_offline(_model(model, corpus), shown, examined.theta, corpus=corpus)
    if json:
        output.emit({"model": model, "identifiable": examined.identifiable, "offline": found})
        return
    output.note(
        f"{found.searches:,} searches, {found.clicks:,} clicks, {found.clipped:.1%} of them cut at {found.clip:g}"
    )
    output.table(
        ["estimate", "logged", "base", "model", "over logged", "low", "high", "over base", "low", "high"],
        [
            [
                name,
                *(f"{value:.4f}" for value in one.values.values()),
                *(
                    f"{end:+.4f}"
                    for over in (one.over_logged, one.over_base)
                    for end in (over.mean, over.low, over.high)
                ),
            ]
            for name, one in (("ips", found.ips), ("snips", found.snips))
        ],
    )


def _model(name: str, corpus: "Corpus") -> "Model":
    from clickwell.training.model import Model
    from clickwell.training.tuning import encoder_of

    return Model(encoder_of(name, corpus)) if name == "lsa" else Model.load(Path(name))


def _summary(found: "Evaluation") -> dict[str, Any]:
    """Return the figures over all queries first, then those of each group."""
    every = found.groups["all"]
    return {
        "queries": every.queries,
        "unjudged": found.unjudged,
        "documents": found.documents,
        **{name: one.model for name, one in every.metrics.items()},
        "base": {name: one.base for name, one in every.metrics.items()},
        "confidence": found.confidence,
        "groups": found.groups,
        "gate": found.gate,
    }


def _print(found: "Evaluation") -> None:
    output.note(f"{found.documents:,} documents, {found.confidence:.0%} intervals by a paired bootstrap")
    output.table(
        ["queries", "count", "metric", "base", "model", "change", "low", "high"],
        [
            [
                name.replace("_", " "),
                group.queries,
                metric,
                f"{one.base:.4f}",
                f"{one.model:.4f}",
                f"{one.difference:+.4f}",
                f"{one.low:+.4f}",
                f"{one.high:+.4f}",
            ]
            for name, group in found.groups.items()
            for metric, one in group.metrics.items()
        ],
    )
    (output.done if found.gate.ship else output.warn)(found.gate.why)


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error.strerror or error}") from None
    output.done(f"{path} is written")


def _require(*modules: str) -> None:
    for name in modules:
        if find_spec(name) is None:
            raise UsageError(f"{name} is not installed", fix="pip install 'clickwell[learn]'")
