"""`clickwell propensities`, `relevance` and `pairs`: what clicks say once the position's part is taken out."""

from enum import StrEnum
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from clickwell.cli import output
from clickwell.cli.lake import SinceOption, UntilOption, day_of
from clickwell.cli.output import DataOption, JsonOption
from clickwell.errors import UsageError
from clickwell.settings import Settings

RetrieverOption = Annotated[
    str | None, typer.Option("--retriever", metavar="R", help="Its retriever_id; not needed where there is only one.")
]


class MethodName(StrEnum):
    """How examination is estimated."""

    ALL_PAIRS = "all-pairs"
    REGRESSION_EM = "regression-em"


def register(app: typer.Typer) -> None:
    """Add the commands to the command line."""
    for command, examples in (
        (
            propensities,
            (
                "clickwell propensities --retriever shop",
                "clickwell propensities --retriever shop --device phone --json",
            ),
        ),
        (relevance, ("clickwell relevance --retriever shop --jsonl", "clickwell relevance --diagnose --json")),
    ):
        app.command(epilog=output.examples(*examples))(command)
    pairs = typer.Typer(
        name="pairs",
        epilog=output.examples(
            "clickwell pairs export --out DIR", "clickwell pairs export --out DIR --corpus docs.jsonl"
        ),
        help="Make training data of clicks.",
        rich_markup_mode=None,
        no_args_is_help=True,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    pairs.command(
        epilog=output.examples(
            "clickwell pairs export --out DIR --corpus corpus.jsonl",
            "clickwell pairs export --out DIR --retriever shop --range last_90_days --negatives 8 --json",
        )
    )(export)
    # Without it, a group of one command would be that command.
    pairs.callback()(lambda: None)
    app.add_typer(pairs)


def propensities(
    *,
    retriever: RetrieverOption = None,
    device: Annotated[str | None, typer.Option(help="Only searches that tell this device.")] = None,
    method: Annotated[
        MethodName, typer.Option(help="all-pairs uses changes of rank; regression-em is a second opinion.")
    ] = MethodName.ALL_PAIRS,
    since: SinceOption = None,
    until: UntilOption = None,
    data: DataOption = None,
    json: JsonOption = False,
) -> None:
    """Estimate how often each position is examined, or say that the log cannot tell."""
    from clickwell.analytics.propensities import propensities as estimate

    found = estimate(
        _settings(data), retriever, device=device, since=day_of(since), until=day_of(until), method=method.value
    )
    if json:
        output.emit(found)
        return
    (output.done if found.identifiable else output.warn)(found.note)
    output.table(
        ["position", "theta", "low", "high", "evidence"],
        [
            [place, f"{theta:.3f}", *("-" if edge is None else f"{edge:.3f}" for edge in (low, high)), pairs]
            for place, (theta, low, high, pairs) in enumerate(
                zip(found.theta, found.low, found.high, found.evidence, strict=True)
            )
        ],
    )


def relevance(
    *,
    retriever: RetrieverOption = None,
    diagnose: Annotated[
        bool, typer.Option("--diagnose", help="Tell how well later clicks are predicted, beside plain CTR.")
    ] = False,
    since: SinceOption = None,
    until: UntilOption = None,
    jsonl: Annotated[bool, typer.Option("--jsonl", help="Print one JSON object for each pair.")] = False,
    data: DataOption = None,
    json: JsonOption = False,
) -> None:
    """Estimate the relevance of each document for each query from clicks, with the position's part taken out."""
    from clickwell.analytics import relevance as estimating

    if json and jsonl:
        raise UsageError("--json and --jsonl exclude each other")
    settings, first, last = _settings(data), day_of(since), day_of(until)
    if diagnose:
        told = estimating.diagnosis(settings, retriever, since=first, until=last)
        if json or jsonl:
            output.emit(told)
            return
        output.note(f"perplexity of the later half of {told.impressions:,} impressions; 1 is perfect, 2 a coin")
        rows = [
            ("position-based", told.position_based),
            ("rank CTR", told.rank_ctr),
            ("document CTR", told.document_ctr),
        ]
        output.table(["model", "perplexity"], [[name, f"{value:.4f}"] for name, value in rows])
        return
    found = estimating.relevance(settings, retriever, since=first, until=last)
    if not found.propensities.identifiable:
        output.warn(found.propensities.note)
    if json:
        output.emit({"a": found.a, "propensities": found.propensities, "pairs": list(found.lines())})
    elif jsonl:
        for line in found.lines():
            output.emit(line)
    else:
        output.table(
            ["query", "feature_id", "estimate", "low", "high", "clicks", "exposure"],
            (
                [f"{value:.3f}" if isinstance(value, float) else value for value in line.values()]
                for line in found.lines()
            ),
        )


def export(
    *,
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="A new folder.")],
    retriever: RetrieverOption = None,
    corpus: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="JSON lines with id and text (or title); without, ids stand for texts."),
    ] = None,
    date_range: Annotated[
        str, typer.Option("--range", help="last_N_days, all, or 2026-05-01..2026-05-31.")
    ] = "last_30_days",
    min_interactions: Annotated[int, typer.Option(min=1, help="That a positive needs.")] = 2,
    negatives: Annotated[int, typer.Option(min=1, max=100, help="Of each positive.")] = 4,
    validation: Annotated[float, typer.Option(min=0, max=0.5, help="Share of the queries.")] = 0.1,
    test: Annotated[float, typer.Option(min=0, max=0.5, help="Share of the queries.")] = 0.1,
    later: Annotated[
        float, typer.Option(min=0, max=0.9, help="Share of the searches, the last, for the test only.")
    ] = 0.2,
    ranking: Annotated[bool, typer.Option(help="Also write impressions for learning to rank.")] = True,
    seed: Annotated[int, typer.Option(help="Of the drawn negatives.")] = 1,
    data: DataOption = None,
    json: JsonOption = False,
) -> None:
    """Write (query, positive, hard negatives) with audit, rankings, splits, data card and manifest."""
    from clickwell.analytics.splits import Shares
    from clickwell.analytics.training_export import Options, export_pairs, read_texts

    settings = _settings(data)
    texts = read_texts(corpus) if corpus else None
    options = Options(
        retriever, date_range, min_interactions, negatives, Shares(validation, test, later), ranking, seed
    )
    manifest = export_pairs(settings, out, options, texts)
    if not manifest["propensities"]["identifiable"]:
        output.warn(manifest["propensities"]["note"])
    train = manifest["parts"]["train"]
    output.done(
        f"{train['tuples']:,} tuples to train on, from {train['positives']:,} positives and "
        f"{train['hard_negatives']:,} hard negatives of {train['queries']:,} queries, in {out}"
    )
    if json:
        output.emit(manifest)


def _settings(data: Path | None) -> Settings:
    if find_spec("duckdb") is None:
        raise UsageError("duckdb is not installed", fix="pip install 'clickwell[analytics]'")
    return Settings.load(data)
