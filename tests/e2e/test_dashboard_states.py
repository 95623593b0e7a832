"""Every state of the dashboard, in both themes and two widths: nothing that keeps somebody out, nothing cut off.

By default light goes with the wide page and dark with the narrow one. `CLICKWELL_TEST_SCREENSHOTS=DIR` takes all four
together and keeps the pictures; whoever changes the page looks at them.
"""

import os
from pathlib import Path

import pytest

from clickwell.analytics import report
from clickwell.settings import Settings

from .dashboard_site import FALL, Served, check_alerts, day, write_site

AXE = Path(__file__).with_name("vendor") / "axe.min.js"
TAGS = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]
WEEK = f"r=shop&since={day(6)}&until={day(12)}"
FALLEN = f"r=shop&since={day(9)}&until={day(15)}"
KEPT = os.environ.get("CLICKWELL_TEST_SCREENSHOTS")
LOOKS = [("light", 1280), ("dark", 360), *([("dark", 1280), ("light", 360)] if KEPT else [])]
# For a machine that does much else.
WAIT_MS = 90_000
# Seconds ago: counters that stay of now for as long as the slowest machine takes.
NOW = -3600
# What the checker cannot judge by itself: text on a drawing. The colours are measured in test_palette.py.
UNJUDGED = {"color-contrast"}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Folder of the screenshots."""
    folder = Path(KEPT or tmp_path_factory.mktemp("pictures"))
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    """A shop with two healthy weeks."""
    settings = Settings.load(tmp_path_factory.mktemp("shop"))
    write_site(settings)
    check_alerts(settings, 12)
    served = Served(settings.data)
    yield served
    served.close()


@pytest.fixture(scope="module")
def fallen(shop):
    """The same shop when the fall has been found."""
    for at in (FALL + 0.3, 15.5):
        book = check_alerts(shop.settings, at)
    assert "ctr_drop" in {alert.rule for alert in book.open}
    return shop


@pytest.fixture(scope="module")
def nothing(tmp_path_factory):
    """A dashboard before the first event."""
    served = Served(tmp_path_factory.mktemp("nothing"))
    yield served
    served.close()


@pytest.fixture
def visit(browser):
    """A function that opens a page of a dashboard and waits for a state; complaints of the browser fail the test."""
    contexts, complaints = [], []

    def go(served, path, state="ready", **options):
        context = browser.new_context(**{"viewport": {"width": 1280, "height": 900}} | options)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(WAIT_MS)
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.goto(f"{served.address}/dashboard{path}")
        page.wait_for_selector(f"main[data-state={state}]")
        return page

    yield go
    for context in contexts:
        context.close()
    assert [each for each in complaints if not each.startswith("Failed to load resource")] == []


def drawn(page):
    """Wait until what has changed its size or its theme is drawn."""
    page.evaluate("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")


def check(page, name, pictures, looks=LOOKS):
    """Hold the page as it is against every rule of the checker, in each theme and width, and take its picture."""
    page.evaluate(AXE.read_text())  # the page's policy lets no further script in by a tag
    for theme, width in looks:
        page.emulate_media(color_scheme=theme)
        page.set_viewport_size({"width": width, "height": 900})
        drawn(page)
        found = page.evaluate("tags => axe.run({runOnly: tags})", TAGS)
        told = [(each["id"], [node["html"] for node in each["nodes"]]) for each in found["violations"]]
        assert told == [], f"{name}, {theme}, {width}"
        assert {each["id"] for each in found["incomplete"]} <= UNJUDGED, f"{name}, {theme}, {width}"
        assert page.evaluate("document.documentElement.scrollWidth") <= width, f"{name}, {theme}, {width}"
        page.screenshot(path=pictures / f"{name}-{theme}-{width}.png", full_page=True)


def test_healthy(shop, visit, pictures):
    """No alert: the page says so, and when it looked."""
    shop.counted(NOW)
    page = visit(shop, f"?{WEEK}")
    assert page.locator("#alerts").inner_text().endswith("Nothing is wrong.")
    page.wait_for_selector("html[data-fresh=live]")
    check(page, "01-healthy", pictures)


def test_fallen(fallen, visit, pictures):
    """With an alert: it is named first, in the title too, and drawn where it began."""
    fallen.counted(NOW)
    page = visit(fallen, f"?{FALLEN}")
    page.wait_for_selector("html[data-fresh=live]")
    assert "CTR fell" in page.locator("#alerts").inner_text()
    assert page.title().startswith("(3) Relevance")
    check(page, "02-alert", pictures)


def test_alert_page(fallen, visit, pictures):
    """An alert leads to its hours, to what stood where then and now, and to what would close it."""
    page = visit(fallen, f"?{FALLEN}")
    page.get_by_role("link", name="CTR fell").click()
    page.wait_for_selector("#hours canvas")
    assert "Evidence: " in page.locator("#evidence").inner_text()
    page.locator("#hours summary").click()
    assert page.locator("#hours tbody tr").count() > 30
    assert "4 standard errors" in page.locator("#end").inner_text()
    page.locator("#hours summary").click()
    check(page, "03-alert-page", pictures)
    page.locator("#end a").click()
    page.wait_for_selector("#trend canvas")


def test_first_run(nothing, visit, pictures):
    """Nothing there yet: the next command is on the screen, and no control is blank."""
    page = visit(nothing, "", "empty")
    page.wait_for_selector("html[data-fresh=absent]")
    box = page.get_by_text("clickwell simulate --rate 200").first.bounding_box()
    assert box["y"] < 900
    assert page.locator("#retriever").inner_text() == "no retriever yet"
    check(page, "04-first-run", pictures)


def test_little_evidence(fallen, visit, pictures):
    """A dozen searches are counts and no rates."""
    page = visit(fallen, f"?r=small&since={day(14)}&until={day(15)}")
    assert page.locator(".six .big").nth(4).inner_text() == "—"
    assert "of 12 searches: too little evidence" in page.locator(".six").inner_text()
    check(page, "05-little-evidence", pictures)


def test_stale(fallen, visit, pictures):
    """Counters of twelve minutes ago are grey, and it is said since when and what to do."""
    fallen.counted(720)
    page = visit(fallen, f"?{FALLEN}")
    page.wait_for_selector("#standing")
    assert "12 min ago" in page.locator("#standing").inner_text()
    assert "clickwell worker" in page.locator("#standing").inner_text()
    assert page.locator("#fresh").inner_text().startswith("as of")
    grey = page.locator("#evidence").evaluate("e => getComputedStyle(e).color")
    assert page.locator(".six .big").first.evaluate("e => getComputedStyle(e).color") == grey
    check(page, "06-stale", pictures)


def test_one_part_fails(fallen, visit, pictures):
    """A section that cannot be read says so and offers to try again; the other nine stand."""
    fallen.counted(NOW)
    page = visit(fallen, "?days=1", "empty")
    page.route(
        "**/v1/dashboard/trend?*", lambda route: route.fulfill(status=503, json={"detail": "the lake does not answer"})
    )
    page.goto(f"{fallen.address}/dashboard?{FALLEN}")
    page.wait_for_selector("main[data-state=error]")
    assert "The lake does not answer." in page.locator("#trend").inner_text()
    assert page.locator("main > section").count() == 10
    check(page, "07-one-part-fails", pictures)
    page.unroute("**/v1/dashboard/trend?*")
    page.get_by_role("button", name="Retry").click()
    page.wait_for_selector("#trend canvas")


def test_api_gone(fallen, visit, pictures):
    """When the API is gone, what was read stays, grey, with its age; when it is back, the page is, without a reload."""
    fallen.counted(NOW)
    page = visit(fallen, f"?{FALLEN}")
    page.wait_for_selector("html[data-fresh=live]")
    fallen.stop()
    page.wait_for_selector("html[data-fresh=offline]")
    assert "The API does not answer." in page.locator("#standing").inner_text()
    assert page.locator(".six .big").nth(1).inner_text().endswith("%")
    check(page, "08-api-gone", pictures)
    fallen.start()
    page.get_by_role("button", name="Retry now").click()
    page.wait_for_selector("html[data-fresh=live]")
    assert page.locator("#standing").count() == 0


def test_hostile_queries(fallen, visit, pictures):
    """Markup, writing from right to left, a thousand characters and no character at all stay text."""
    page = visit(fallen, f"/queries?{WEEK}")
    texts = page.locator("#queries td.name").all_inner_texts()
    assert {"(empty query)", "\U0001f97e \u5c71\u7528\u9774"} <= set(texts)
    assert page.locator("main img").count() == 0
    check(page, "09-hostile", pictures)


def test_query_and_document(fallen, visit, pictures):
    """A query and a document have their verdict, their days and what they were shown with; a document its boost."""
    page = visit(fallen, f"/skipped?{WEEK}")
    page.locator("#skipped td a").first.click()
    page.wait_for_selector("#pairs td")
    assert page.locator("#boost").inner_text().startswith("Boost now")
    check(page, "10-document", pictures)
    page.locator("#pairs td a").first.click()
    page.wait_for_selector("#terminal")
    page.wait_for_selector("#by-day canvas")
    check(page, "11-query", pictures, LOOKS[:1])
    page.go_back()
    page.wait_for_selector("#boost")


def test_key_is_asked_for(fallen, visit, pictures):
    """Where a key is needed, the page says which and how one is made."""
    page = visit(fallen, "?days=1", "empty")
    page.route("**/v1/**", lambda route: route.fulfill(status=401, json={"detail": "no valid key"}))
    page.goto(f"{fallen.address}/dashboard")
    page.wait_for_selector("main[data-state=locked]")
    assert "clickwell keys create --scope read" in page.locator("main").inner_text()
    check(page, "12-locked", pictures)


def test_forced_colours(fallen, visit, pictures):
    """With the browser's own colours everything is still there, in them; without colours the sign is a word."""
    fallen.counted(NOW)
    page = visit(fallen, f"?{FALLEN}", forced_colors="active")
    assert page.locator("svg .dot").first.evaluate("e => getComputedStyle(e).fill") == "rgb(0, 0, 0)"
    assert page.locator(".alerts li").first.inner_text().startswith("▲ open")
    check(page, "13-forced-colours", pictures, [("light", 1280)])


def test_four_times_larger(fallen, visit, pictures):
    """At 400 % zoom nothing is cut off or covered, and a chart's values are read out by the keyboard."""
    page = visit(fallen, f"?{FALLEN}", viewport={"width": 320, "height": 256})
    assert page.evaluate("document.documentElement.scrollWidth") <= 320
    box = page.locator("#trend .chart").first
    box.focus()
    page.keyboard.press("End")
    last = page.locator("#trend .reading").first.inner_text()
    page.keyboard.press("ArrowLeft")
    assert page.locator("#trend .reading").first.inner_text() != last
    page.locator("#trend summary").first.click()
    assert last.startswith(page.locator("#trend tbody tr").last.locator("td").first.inner_text().split(",")[0])
    assert page.evaluate("document.documentElement.scrollWidth") <= 320
    page.screenshot(path=pictures / "14-zoomed.png")


def test_help(shop, visit, pictures):
    """The keys are listed where they are switched off, and the theme is chosen."""
    page = visit(shop, f"?{WEEK}")
    page.keyboard.press("?")
    page.wait_for_selector("dialog[open]")
    check(page, "15-help", pictures)
    page.get_by_label("dark").check()
    assert page.evaluate("document.documentElement.dataset.theme") == "dark"
    page.keyboard.press("Escape")
    page.wait_for_selector("dialog:not([open])", state="attached")


def test_report_in_print(fallen, browser, pictures):
    """The weekly report is one page without scripts that can be printed and that everybody can read."""
    made = report.make(fallen.settings, "shop", day(9), day(15))
    page = browser.new_page(viewport={"width": 794, "height": 1123})
    page.set_content(report.html(made))
    page.emulate_media(media="print")
    page.evaluate(AXE.read_text())
    found = page.evaluate("tags => axe.run({runOnly: tags})", TAGS)
    assert [each["id"] for each in found["violations"]] == []
    page.screenshot(path=pictures / "16-report.png", full_page=True)
    page.close()
