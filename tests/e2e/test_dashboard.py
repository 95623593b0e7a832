"""The dashboard in a real browser on a real stack: what it shows, that it is live, and that everybody can use it."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from playwright.sync_api import sync_playwright

from clickwell import Emitter
from clickwell.settings import Settings

AXE = Path(__file__).with_name("vendor") / "axe.min.js"
TAGS = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]
MOST_BYTES = 200_000
HOSTILE = "<img src=x onerror=document.title='pwned'> \u202e\u0645\u0631\u062d\u0628\u0627 " + "wide " * 150

pytestmark = pytest.mark.broker


@pytest.fixture(scope="module")
def browser():
    """Chromium: the machine's own, else installed by its package manager, else Playwright's."""
    names = ("chromium", "chromium-browser", "google-chrome")
    found = next(filter(None, map(shutil.which, names)), None)
    if found is None and os.geteuid() == 0 and shutil.which("apt-get"):
        for command in (["update"], ["install", "--yes", "--quiet", "chromium"]):
            subprocess.run(["apt-get", *command], check=False, capture_output=True, timeout=280)
        found = shutil.which("chromium")
    if found is None:
        subprocess.run([sys.executable, "-m", "playwright", "install", "chromium"], check=True, timeout=280)
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield running
        running.close()


@pytest.fixture(scope="module")
def stack(tmp_path_factory):
    """A stack with a week of traffic in the lake: its settings and the API's address."""
    folder = tmp_path_factory.mktemp("dashboard")
    env = {name: value for name, value in os.environ.items() if not name.startswith("CLICKWELL_")}
    # Rows are wanted soon, and there are few.
    env["CLICKWELL_SINK__FLUSH_SECONDS"] = "1"

    def run(*arguments):
        command = [sys.executable, "-m", "clickwell", *arguments, "--data", str(folder)]
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=280, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    state = json.loads(run("up", "--detach", "--json"))
    try:
        address = next(part["address"] for part in state["components"] if part["name"] == "api")
        now = time.time_ns() // 1_000_000
        hostile = [
            {
                "execution_id": f"x{i}",
                "query": HOSTILE,
                "retriever_id": "shop",
                "results": [],
                "timestamp": now - i * 1000,
            }
            for i in range(8)
        ]
        (folder / "hostile.jsonl").write_text("".join(json.dumps(one) + "\n" for one in hostile))
        run("simulate", "--days", "8", "--searches", "4000")
        run("publish", str(folder / "hostile.jsonl"), "--wait")
        yield Settings.load(folder), address
    finally:
        run("down")


@pytest.fixture
def open_page(browser, stack):
    """A function that opens a page of the dashboard and waits until it has its numbers; complaints fail the test."""
    contexts, complaints = [], []

    def show(path="", *, theme="light", width=1280):
        context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=theme)
        contexts.append(context)
        page = context.new_page()
        page.complaints = complaints
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on(
            "request",
            lambda request: complaints.extend([] if request.url.startswith((stack[1], "data:")) else [request.url]),
        )
        page.goto(f"{stack[1]}/dashboard{path}")
        page.wait_for_selector("main[data-state=ready]", timeout=60_000)
        return page

    yield show
    for context in contexts:
        context.close()
    assert complaints == []


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 360])
@pytest.mark.parametrize("path", ["", "/zero", "/pipeline"])
def test_everybody_can_use_it(open_page, path, theme, width):
    """The checker of accessibility finds nothing in either theme and width, and nothing is cut off sideways."""
    page = open_page(path, theme=theme, width=width)
    page.wait_for_selector("h1")
    page.evaluate(AXE.read_text())  # the page's policy lets no further script in by a tag
    found = page.evaluate("tags => axe.run({runOnly: tags})", TAGS)
    assert [(one["id"], [node["html"] for node in one["nodes"]]) for one in found["violations"]] == []
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_a_click_shows_up_without_a_reload(open_page, stack):
    """Clicks on a new document bring it to the top of what is popular while the page stays open."""
    page = open_page()
    page.evaluate("window.same = true")
    with Emitter(stack[0]) as emitter:
        emitter.emit_many({"feature_id": "brand-new", "interaction_type": ["purchase"]} for _ in range(2000))
        emitter.flush(30)
    page.wait_for_selector("#popular a:has-text('brand-new')", timeout=60_000)
    assert page.evaluate("window.same")


def test_queries_are_only_ever_text(open_page):
    """Markup, writing from right to left and a very long query are shown as they are, and lead to their own page."""
    page = open_page("/zero")
    link = page.locator("#zero td a").first
    assert link.inner_text().startswith("<img src=x")
    link.click()
    page.wait_for_selector("#by-day, h1 bdi")
    assert page.locator("main img").count() == 0
    assert "pwned" not in page.title().removeprefix("<img src=x onerror=document.title='pwned'>")


def test_the_address_holds_the_state(open_page):
    """Period and comparison are in the address; Back undoes a change, and a copied address shows the same."""
    page = open_page("?days=28&cmp=off")
    assert page.locator("#days").input_value() == "28"
    assert not page.locator("#compare").is_checked()
    page.locator("#days").select_option("7")
    page.wait_for_function("location.search.includes('days=7')")
    page.go_back()
    assert page.locator("#days").input_value() == "28"


def test_the_charts_numbers_are_the_tables(open_page, stack):
    """What `Show as table` says of CTR by position is what the API says."""
    page = open_page()
    page.locator("#positions summary").click()
    rows = page.locator("#positions tbody tr")
    asked = page.evaluate(
        "fetch('/v1/dashboard/period?' + new URLSearchParams({since: state().since, until: state().until}))"
        ".then(answer => answer.json())"
    )
    first = asked["signals"]["ctr_by_position"][0]["ctr"]
    cells = rows.first.locator("td").all_inner_texts()
    assert cells[0] == "1"
    assert cells[1].startswith(f"{100 * first['value']:.1f}%"[:3])
    assert cells[2] == f"{first['of']:,}"


def test_the_page_is_small(browser, stack):
    """All files of the page together have at most 200 kB, and the titles stand before any number has come."""
    page = browser.new_page()
    sizes = []
    page.on(
        "response",
        lambda answer: (
            sizes.append(len(answer.body())) if "/dashboard" in answer.url and "/v1/" not in answer.url else None
        ),
    )
    page.route("**/v1/**", lambda route: None)
    page.goto(f"{stack[1]}/dashboard")
    page.wait_for_selector("main[data-state=loading] h2:text-is('Six numbers')")
    assert 10_000 < sum(sizes) <= MOST_BYTES
    page.close()


def test_an_api_that_is_gone_is_said(open_page):
    """When requests fail, the page says so, offers to try again, and keeps its numbers."""
    page = open_page()
    page.route("**/v1/**", lambda route: route.abort())
    page.wait_for_selector("#fresh:has-text('reconnecting')", timeout=60_000)
    assert page.locator("#now").count() == 1
    assert {complaint.split(" (")[0] for complaint in page.complaints} <= {"Failed to load resource: net::ERR_FAILED"}
    page.complaints.clear()


def test_a_key_can_be_typed(browser, stack):
    """Where a key is needed it is asked for, and what is typed stays while the page goes on trying."""
    page = browser.new_page()
    refusals = []
    page.on("response", lambda answer: refusals.append(answer.status) if "/v1/" in answer.url else None)
    page.route("**/v1/**", lambda route: route.fulfill(status=401, json={"detail": "a key with scope read is needed"}))
    page.goto(f"{stack[1]}/dashboard")
    page.locator("input[name=key]").focus()
    page.keyboard.type("secret")
    before = len(refusals)
    while len(refusals) < before + 2:
        page.wait_for_timeout(200)
    assert page.locator("input[name=key]").input_value() == "secret"
    page.close()
