"""The cost model: what it adds up, and that the page shows what it prints."""

import importlib.util
import json
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def cost() -> ModuleType:
    """Return benchmarks/cost.py."""
    spec = importlib.util.spec_from_file_location("cost", ROOT / "benchmarks" / "cost.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def costs(cost: ModuleType):
    """Return round costs: 10 CPU seconds for a million events in a worker, 2 in Redis, 100 bytes wherever."""
    sizes = dict.fromkeys(("kafka_bytes", "lake_bytes", "document", "repeat", "fact", "window_row", "history"), 100.0)
    return cost.Costs(worker=10.0, redis=2.0, sink=5.0, kafka=4.0, **sizes)


def test_a_plan_adds_up(cost: ModuleType, costs) -> None:
    """Cores are events times their cost over the planned share, bytes are events times days times copies."""
    assumed = cost.Assumed(documents=0, users=0, kafka_days=10, kafka_replication=3, lake_days=100)
    plan = cost.plan(100_000, costs, assumed)
    assert (plan.workers, plan.sinks, plan.kafka_cores, plan.partitions) == (2, 2, 2, 4)
    assert cost.plan(1_000_000, costs, assumed).workers == 20
    assert plan.kafka_gb == pytest.approx(1e5 * 100 * 86_400 * 10 * 3 / 1e9)
    assert plan.lake_gb == pytest.approx(1e5 * 100 * 86_400 * 100 / 1e9)


def test_redis_is_as_many_nodes_as_memory_or_cores_need(cost: ModuleType, costs) -> None:
    """The larger need decides, and one beyond the shards is said to be too many."""
    light = replace(costs, repeat=0.0, fact=0.0, window_row=0.0)
    assumed = cost.Assumed(documents=10**9, users=0, node_gb=10, full=0.5)
    by_memory = cost.plan(1000, light, assumed)
    assert (by_memory.redis_nodes, by_memory.redis_by, by_memory.redis_gb) == (20, "memory", pytest.approx(100))
    by_cores = cost.plan(2_000_000, light, replace(assumed, documents=0))
    assert (by_cores.redis_nodes, by_cores.redis_by, by_cores.fits) == (8, "CPU", True)
    assert not cost.plan(20_000_000, light, assumed).fits


def test_shorter_joins_need_less(cost: ModuleType, costs) -> None:
    """What is kept of searches grows with the hours in which their events are joined."""
    long, short = (dict(cost.memory_of(10**5, costs, cost.Assumed(join_hours=hours))) for hours in (12, 1))
    (name,) = [name for name in long if name.startswith("facts")]
    assert long[name] == 12 * short[name]
    assert {name: long[name] for name in long if long[name] != short[name]} == {name: long[name]}


def test_the_page_shows_what_the_model_prints(cost: ModuleType) -> None:
    """docs/scaling.md holds the tables that follow from the measured costs beside it."""
    costs = cost.Costs.of(json.loads((ROOT / "docs" / "scaling.json").read_text()))
    page = (ROOT / "docs" / "scaling.md").read_text()
    for assumed in (cost.Assumed(), cost.Assumed(join_hours=1)):
        plans, _, _ = cost.tables([100_000, 1_000_000, 10_000_000], costs, assumed).partition("\n\n")
        assert plans in page
