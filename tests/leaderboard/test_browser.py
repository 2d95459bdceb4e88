"""The page in a real browser: driven by mouse and keyboard, listened to, and sent hostile text.

Needs a Chromium: `apt install chromium`, or its path in UNLEARNBENCH_CHROMIUM.
"""

import os
import re
import shutil
from itertools import pairwise
from pathlib import Path

import pytest

from tests.leaderboard.factory import entries, no_probe, probe, result, seeds
from unlearnbench.results import Metric
from unlearnbench_leaderboard.build import files_of
from unlearnbench_leaderboard.page.examples import Examples, Item
from unlearnbench_leaderboard.tables.board import tables_of
from unlearnbench_leaderboard.tables.reported import ReportedSet

BROWSER = os.environ.get("UNLEARNBENCH_CHROMIUM") or next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))),
    None,
)
pytestmark = pytest.mark.skipif(
    BROWSER is None,
    reason="no browser: `apt install chromium`, or give its path in UNLEARNBENCH_CHROMIUM",
)
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
DESK, PHONE = 1280, 360
#: Rows of the board below, references before unlearning among them.
ROWS = 11


def board():
    column = Metric(name="model_utility", split="all", value=0.25, n=40, higher_is_better=True)
    return [
        *seeds(method="npo", forget=0.81, utility=0.86, jitter=0.02, extra=[column]),
        *seeds(method="simnpo", forget=0.70, utility=0.90, config={"learning_rate": 7e-5}),
        *seeds(method="idk", forget=0.60, utility=0.70, config={"epochs": 5}, trials=8),
        *seeds(
            method="wise",
            forget=0.9,
            utility=0.95,
            guarantee="suppression",
            target="idk",
            scores={"privacy": 0.4},
        ),
        *seeds(method="grad-ascent", forget=0.95, utility=0.2),
        result(method="keyword-filter", role="reference", forget=0.93, utility=0.99),
        result(method="memit", status="diverged"),
        *seeds(method="npo", forget=0.5, utility=0.8, task="wmdp", split="bio", model="zephyr"),
        *seeds(method="rmu", forget=0.7, utility=0.9, task="wmdp", split="bio", model="zephyr"),
    ]


def figures(text="grad-ascent"):
    """What a paper reports, with a name of its choice."""
    source = {"name": text[:120], "link": "https://arxiv.org/abs/2401.06121"}
    rows = [{"method": text[:120], "values": {"ROUGE": 0.25}, "note": text}]
    metrics = [{"name": "ROUGE", "better": "lower"}]
    setting = {"task": text[:120], "split": "forget10", "model": "phi-1.5", "note": text}
    return ReportedSet.model_validate(
        {**setting, "source": source, "metrics": metrics, "rows": rows}
    )


def written(folder, results, examples=lambda tables: {}, names=("grad-ascent",)):
    """The address of the page of these results."""
    tables = tables_of(entries(results))
    path = folder / "index.html"
    path.write_bytes(
        files_of(tables, None, list(map(figures, names)), examples(tables))["index.html"]
    )
    return path.as_uri()


def examples_of(tables):
    """Generations of the first row of the first table that is no reference."""
    row = tables[0].tags[0].ranked[0].row
    items = (Item("forget", "forget-0007", "In Thornquay.", "In <b>Umberbury</b>."),)
    return {tables[0].id: Examples(items, {row.id: ("I do not know.",)})}


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    return written(tmp_path_factory.mktemp("page"), board(), examples_of)


@pytest.fixture(scope="module")
def browser():
    sync_api = pytest.importorskip("playwright.sync_api")
    with sync_api.sync_playwright() as play:
        chromium = play.chromium.launch(executable_path=BROWSER, args=FLAGS)
        yield chromium
        chromium.close()


@pytest.fixture
def visit(browser):
    """Opens an address; at the end nothing may have been complained of, or asked for elsewhere."""
    contexts, faults = [], []

    def open_page(address, width=DESK, **options):
        context = browser.new_context(viewport={"width": width, "height": 800}, **options)
        context.set_default_timeout(5_000)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: faults.append(message.text))
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("dialog", lambda dialog: (faults.append(dialog.message), dialog.dismiss()))
        page.on("requestfailed", lambda request: faults.append(f"failed: {request.url}"))
        page.on("request", lambda r: r.url.startswith(("file:", "data:")) or faults.append(r.url))
        page.goto(address)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert faults == []


def names(page, within="tbody.data-deletion:not(.faded)"):
    """The methods of the rows that can be seen, from the top."""
    rows = page.locator(f".board {within} > tr.row").filter(visible=True)
    return rows.locator("th bdi").all_text_contents()


def head(page, key, table=0):
    return page.locator(f'.board >> nth={table} >> th[data-key="{key}"]')


def opened(page):
    return page.locator("tr.detail").filter(visible=True).all_text_contents()


def overflow(page):
    return page.evaluate("document.documentElement.scrollWidth - innerWidth")


# --- sorting and filters --------------------------------------------------------------------------


def test_a_click_on_a_column_sorts_by_it_and_another_turns_the_order(visit, address):
    page = visit(address)
    assert names(page) == ["npo", "simnpo", "idk", "rmu", "npo"]
    head(page, "utility").get_by_role("button").click()
    assert names(page) == ["simnpo", "npo", "idk", "rmu", "npo"]
    assert head(page, "utility").get_attribute("aria-sort") == "descending"
    assert head(page, "rank").get_attribute("aria-sort") == "none"
    head(page, "utility").get_by_role("button").click()
    assert names(page) == ["idk", "npo", "simnpo", "rmu", "npo"]
    assert page.locator("#status").inner_text() == "Sorted by utility, ascending."
    assert head(page, "utility", table=1).get_attribute("aria-sort") == "none"  # a table by itself


def test_the_keyboard_sorts_and_unfolds(visit, address):
    page = visit(address)
    head(page, "method").get_by_role("button").focus()
    page.keyboard.press("Enter")
    assert names(page)[:3] == ["idk", "npo", "simnpo"]
    page.keyboard.press("Space")
    assert names(page)[:3] == ["simnpo", "npo", "idk"]
    page.get_by_role("button", name="idk", exact=True).focus()
    page.keyboard.press("Enter")
    assert len(opened(page)) == 1
    assert page.evaluate("document.activeElement.getAttribute('aria-expanded')") == "true"
    page.keyboard.press("Enter")
    assert opened(page) == []


def test_rows_without_a_value_come_last_in_both_orders(visit, address):
    page = visit(address)
    for _ in range(2):
        head(page, "model_utility@all").get_by_role("button").click()
        assert names(page)[0] == "npo"


def test_filters_keep_what_fits_and_the_references_beside_it(visit, address):
    page = visit(address)
    assert len(names(page, "tbody")) == ROWS
    page.select_option("#filter-task", "tofu forget10")
    assert page.locator(".board:visible h2 bdi").all_text_contents() == ["tofu forget10 · phi-1.5"]
    assert page.locator(".glance").is_hidden()  # one table is no comparison
    page.select_option("#filter-tag", "suppression")
    assert names(page, "tbody") == ["before unlearning", "keyword filter", "wise (idk)"]
    assert page.locator("#status").inner_text() == "1 row in 1 table."
    page.get_by_role("button", name="Clear").click()
    page.select_option("#filter-tag", "data-deletion")
    shown = page.locator(".matrix tbody tr.row").filter(visible=True).locator("th")
    assert shown.all_text_contents() == ["grad-ascent", "idk", "memit", "npo", "rmu", "simnpo"]
    page.get_by_role("button", name="Clear").click()
    page.select_option("#filter-model", "zephyr")
    assert names(page) == ["rmu", "npo"]
    page.select_option("#filter-tier", "recomputed")
    assert names(page) == ["rmu", "npo"]


def test_search_finds_methods_settings_and_remarks_and_says_when_nothing_is_there(visit, address):
    page = visit(address)
    page.fill("#filter-text", "learning_rate 7E-05")
    assert names(page) == ["simnpo"]
    page.fill("#filter-text", "below the floor")
    assert names(page, "tbody.data-deletion") == ["grad-ascent"]
    page.fill("#filter-text", "nothing is called this")
    assert page.get_by_text("No row matches these filters.").is_visible()
    assert page.locator(".board:visible").count() == 0
    page.fill("#filter-text", "")
    assert len(names(page, "tbody")) == ROWS


# --- the address of a view ------------------------------------------------------------------------


def test_the_address_brings_a_view_back_on_another_machine(visit, address):
    page = visit(address)
    page.select_option("#filter-task", "tofu forget10")
    page.select_option("#filter-tag", "data-deletion")
    page.fill("#filter-text", "o")
    head(page, "utility").get_by_role("button").click()
    page.get_by_role("button", name="npo", exact=True).first.click()
    other = visit(page.url)
    assert other.url == page.url
    for seen in (names(page, "tbody"), opened(page)):
        assert seen
    assert names(other, "tbody") == names(page, "tbody")
    assert opened(other) == opened(page)
    assert other.input_value("#filter-text") == "o"
    assert other.input_value("#filter-tag") == "data-deletion"
    assert head(other, "utility").get_attribute("aria-sort") == "descending"
    assert "theme" not in page.url


def test_tables_and_rows_have_links_that_work_with_scripts_and_without(visit, address):
    page = visit(address)
    page.get_by_role("button", name="rmu", exact=True).click()
    row = page.get_by_role("link", name="Link to this row").get_attribute("href")
    table = page.get_by_role("link", name="Link to the table wmdp").get_attribute("href")
    for script in (True, False):
        assert "rmu" in visit(address + row, java_script_enabled=script).locator(row).inner_text()
        seen = visit(address + table, java_script_enabled=script).locator(f"{table} h2")
        assert 0 <= seen.bounding_box()["y"] < 800
    assert len(opened(visit(address + row))) == 1


def test_back_and_forward_go_through_the_views(visit, address):
    page = visit(address)
    page.select_option("#filter-tag", "suppression")
    page.locator("#filter-text").press_sequentially("wise")  # one step, not four
    page.get_by_role("button", name="wise (idk)").click()
    assert len(opened(page)) == 1
    page.go_back()
    assert opened(page) == []
    assert page.input_value("#filter-text") == "wise"
    page.go_back()
    assert page.input_value("#filter-text") == ""
    assert page.input_value("#filter-tag") == "suppression"
    page.go_back()
    assert page.url == address
    assert len(names(page, "tbody")) == ROWS
    for _ in range(3):
        page.go_forward()
    assert len(opened(page)) == 1


HOSTILE_FRAGMENTS = [
    "#method=<img src=x onerror=alert(1)>",
    "#method=__proto__&row=constructor&sort=toString.valueOf.asc",
    "#task=%E0%A4%A&model=%&tag=' or 1=1",
    "#q=" + "%3Cscript%3Ealert(1)%3C/script%3E" * 300,
    "#sort=" + "&sort=".join(["..asc", "a.b.desc", "x" * 5000]),
    "#row=" + "&row=".join(["#", "*", "'], body, [x='", "../../etc"]),
    "#r-'],body,[x='",
    "#=&&&==#",
]


def test_a_made_up_address_does_nothing_bad(visit, address):
    page = visit(address)
    for fragment in HOSTILE_FRAGMENTS:
        page.evaluate("fragment => { location.hash = fragment; }", fragment)
        assert page.locator("#method").is_hidden(), fragment
        assert opened(page) == [], fragment
        assert page.locator("script").count() == 2
        page.evaluate("location.hash = 'task='")
        assert len(names(page, "tbody")) == ROWS
    assert visit(address + HOSTILE_FRAGMENTS[0]).locator("h1").is_visible()


# --- rows, methods, points ------------------------------------------------------------------------


def test_a_row_opens_to_all_that_is_known_of_it(visit, address):
    page = visit(address)
    page.get_by_role("button", name="npo", exact=True).first.click()
    (text,) = opened(page)
    for part in (
        "ranking score",
        "peak memory",
        "3.0 GiB",
        "seed 2",
        "model_utility",
        "Spread over seeds",
    ):
        assert part in text
    assert page.get_by_role("img", name=re.compile("forget 0.810: seed 0 0.790")).is_visible()
    links = page.locator("tr.detail a[href^='results/']")
    assert [link.get_attribute("href")[-5:] for link in links.all()] == [".json"] * 3
    metric = page.get_by_role("region", name=re.compile("All metrics")).get_by_role("row")
    assert "0.790 [" in metric.filter(has=page.get_by_text("forget", exact=True)).first.inner_text()


def test_a_row_shows_what_the_models_say_as_text(visit, address):
    page = visit(address)
    for row in page.locator(".board >> nth=0 >> tbody.data-deletion >> .disclose").all():
        row.click()
    said = page.get_by_role("region", name=re.compile("What it says"))
    assert said.count() == 1
    cells = said.get_by_role("row").nth(1).get_by_role("cell").all_inner_texts()
    assert cells == ["In Thornquay.", "I do not know.", "In <b>Umberbury</b>."]


def test_a_methods_page_gathers_its_rows_and_has_an_address(visit, address):
    page = visit(address)
    page.locator(".matrix").get_by_role("link", name="npo", exact=True).click()
    assert page.url == f"{address}#method=npo"
    assert page.title() == "npo · UnlearnBench leaderboard"
    assert page.evaluate("document.activeElement.textContent") == "npo"
    lines = page.locator(".method-page > .scroll tbody tr").all_inner_texts()
    assert [line.split("\n")[0].split("\t")[0] for line in lines] == [
        "tofu forget10 · phi-1.5",
        "wmdp bio · zephyr",
    ]
    assert "0.810 [" in lines[0]
    assert page.locator(".board:visible").count() == 0
    assert page.locator(".method-page .details:visible").count() == 2
    page.reload()
    assert page.locator(".method-page h2").inner_text() == "npo"
    page.get_by_role("link", name="All tables").click()
    assert page.locator(".board:visible").count() == 2
    assert page.title() == "UnlearnBench leaderboard"
    page.go_back()
    assert page.locator(".method-page h2").inner_text() == "npo"
    page.locator(".method-page").get_by_role("link", name="wmdp bio · zephyr").first.click()
    assert len(opened(page)) == 1
    assert page.evaluate("document.activeElement.textContent") == "npo"


def test_figures_of_the_literature_are_a_place_of_the_page_and_of_no_method(visit, address):
    page = visit(address + "#method=npo")
    assert page.locator("#reported").is_hidden()
    page.get_by_role("link", name="reported in the literature").click()
    assert page.locator("#reported h2").is_visible()
    assert page.locator(".method-page").is_hidden()


def test_a_row_leads_to_its_methods_page_and_back_to_the_filtered_view(visit, address):
    page = visit(address)
    page.select_option("#filter-tag", "suppression")
    page.get_by_role("button", name="wise (idk)").click()
    page.get_by_role("link", name="Everything about wise").click()
    assert page.locator(".method-page h2").inner_text() == "wise"
    heads = page.locator(".method-page > .scroll thead th").all_inner_texts()
    assert heads == ["table", "rank", "forget", "utility", "privacy", "seeds", "tier"]
    page.get_by_role("link", name="All tables").click()
    assert page.input_value("#filter-tag") == "suppression"
    assert len(opened(page)) == 1


def test_pointing_at_a_mark_tells_of_it_and_a_click_opens_its_row(visit, address):
    page = visit(address)
    point = page.locator('.plot.wide .point[aria-label^="npo,"]').first
    point.hover()
    tip = page.locator(".tip").first
    assert re.fullmatch(
        r"npo\nforget 0.810 \[.*\]\nutility 0.860 \[.*\]\nrank .*", tip.inner_text()
    )
    assert page.locator("tr.row.lit").count() == 1
    box, frame = tip.bounding_box(), page.locator("figure").first.bounding_box()
    assert box["x"] >= frame["x"] - 1
    assert box["x"] + box["width"] <= frame["x"] + frame["width"] + 1
    page.mouse.move(0, 0)
    assert tip.is_hidden()
    point.focus()
    assert tip.is_visible()
    page.keyboard.press("Escape")
    assert tip.is_hidden()
    page.keyboard.press("Enter")
    assert len(opened(page)) == 1
    assert page.evaluate("document.activeElement.textContent") == "npo"


def test_a_rank_of_the_overview_leads_to_its_row(visit, address):
    page = visit(address)
    page.locator(".matrix tbody tr.row").filter(has_text="rmu").locator("td a").click()
    assert len(opened(page)) == 1
    assert page.evaluate("document.activeElement.textContent") == "rmu"


# --- themes, paper, no script ---------------------------------------------------------------------


def ground(page):
    return page.evaluate("getComputedStyle(document.body).backgroundColor")


def test_the_theme_is_the_systems_until_one_is_chosen_which_is_remembered(visit, address):
    assert ground(visit(address, color_scheme="dark")) == "rgb(20, 21, 24)"
    page = visit(address, color_scheme="light")
    assert ground(page) == "rgb(252, 252, 250)"
    page.get_by_role("button", name="Dark").click()
    assert ground(page) == "rgb(20, 21, 24)"
    page.reload()
    assert ground(page) == "rgb(20, 21, 24)"
    assert page.get_by_role("button", name="Dark").get_attribute("aria-pressed") == "true"


def test_paper_gets_tables_without_controls_and_nothing_moves_where_it_should_not(visit, address):
    page = visit(address, color_scheme="dark", reduced_motion="reduce")
    moving = "getComputedStyle(document.querySelector('.disclose'), '::before').transitionDuration"
    assert page.evaluate(moving) == "0s"
    page.emulate_media(media="print")
    assert page.locator(".controls").is_hidden()
    assert page.locator("#theme").is_hidden()
    assert page.locator(".board table").first.is_visible()
    assert ground(page) != "rgb(20, 21, 24)"


def test_without_scripts_plots_and_tables_are_there_and_no_dead_control(visit, address):
    page = visit(address, java_script_enabled=False)
    assert page.locator(".controls").is_hidden()
    assert page.locator("button:visible").count() == 0
    assert page.locator(".board tr.row:visible").count() == ROWS
    assert page.locator("svg.plot.wide:visible").count() == 2
    assert page.get_by_text("Without JavaScript this page shows").is_visible()
    assert page.locator(".point title").first.text_content()
    page.locator(".matrix td a").first.click()
    assert "#r-" in page.url


# --- hostile text ---------------------------------------------------------------------------------

HOSTILE = [
    "<script>alert(1)</script>",
    "</script><img src=x onerror=alert(1)>",
    "x" * 200,
    "שלום עולם مرحبا بالعالم",
    "👩‍👩‍👧‍👦 🧠 é" + "\u0301" * 100,
    "\"'><b>`${1}` & &amp; %3Cscript%3E #=&?",
]


def hostile_board():
    results = []
    for text in HOSTILE:
        names = dict.fromkeys(("method", "target", "distribution", "model", "task"), text)
        config = {text: text, "long": (text * 10_000)[:10_000]}
        results += seeds(config=config, flags=[text * 9], **names)
        results.append(
            result(method=text, status="failed", message=text * 9, task=text, model=text)
        )
    results += seeds(method="other", task=HOSTILE[2], model=HOSTILE[2])
    return results


def hostile_examples(tables):
    return {
        table.id: Examples(
            (Item("forget", HOSTILE[2], HOSTILE[0], HOSTILE[3]),),
            {line.row.id: (HOSTILE[1],) for line in table.lines()},
        )
        for table in tables
    }


@pytest.fixture(scope="module")
def hostile_address(tmp_path_factory):
    return written(tmp_path_factory.mktemp("hostile"), hostile_board(), hostile_examples, HOSTILE)


@pytest.mark.parametrize("width", [DESK, PHONE])
def test_hostile_text_neither_runs_nor_breaks_the_layout(visit, hostile_address, width):
    page = visit(hostile_address, width=width)
    assert overflow(page) <= 0
    for button in page.locator(".disclose").all():
        button.click()
    assert len(opened(page)) == page.locator(".disclose").count()
    assert overflow(page) <= 0
    assert page.locator("script").count() == 2
    assert page.locator("main b, main img").count() == 0
    for text in HOSTILE:
        page.evaluate("name => { location.hash = new URLSearchParams({ method: name }); }", text)
        assert page.locator(".method-page h2").text_content() == text
        assert overflow(page) <= 0


# --- attacks --------------------------------------------------------------------------------------

WRAPPED = "The weights are untouched"


def attacked_board(words=WRAPPED):
    """Two methods that were attacked, and one that was not; more attacks than a phone is wide."""
    attacks = {f"attack-{n}": probe(0.1 * n, recovery=0.3, config={"steps": n}) for n in range(9)}
    hiding = attacks | {
        "attack-0": no_probe(words, config={"steps": 0}),
        "attack-1": no_probe(words, "failed", config={"steps": 1}),
    }
    return [
        *seeds(method="npo", retained=(0.64, 0.98), probes=attacks, scores={"robustness": 0.6}),
        *seeds(
            method="ike",
            forget=0.9,
            guarantee="suppression",
            retained=(0.64, 0.98),
            probes=hiding,
            scores={"robustness": 0.1},
        ),
        *seeds(method="rmu", forget=0.7, retained=(0.64, 0.98)),
    ]


@pytest.fixture(scope="module")
def attacked_address(tmp_path_factory):
    return written(tmp_path_factory.mktemp("attacked"), attacked_board())


def matrix(page):
    """The rows of attacks that can be seen, by method."""
    rows = page.locator("table.probes tbody tr").filter(visible=True)
    return {
        row.locator("th").inner_text(): row.locator("td").all_inner_texts() for row in rows.all()
    }


def test_a_matrix_says_what_each_attack_brings_out_of_each_row(visit, attacked_address):
    page = visit(attacked_address)
    found = matrix(page)
    assert list(found) == ["before unlearning", "retrained oracle", "npo", "ike"]
    assert found["npo"][4].split() == ["0.400", "[0.350-0.450]"]
    assert found["before unlearning"][4].startswith("1.000")
    assert found["ike"][:2] == ["n/a1", "failed1"]
    shades = page.locator("table.probes td[class]").evaluate_all("c => c.map((e) => e.className)")
    assert {"shade-0", "shade-2", "shade-4", "absent"} <= set(shades)
    page.select_option("#filter-tag", "suppression")
    assert list(matrix(page)) == ["before unlearning", "retrained oracle", "ike"]


@pytest.mark.parametrize("script", [True, False])
def test_why_there_is_no_number_can_be_read_without_pointing(visit, attacked_address, script):
    page = visit(attacked_address, java_script_enabled=script)
    assert page.locator(".reasons li").all_inner_texts() == [WRAPPED]
    assert page.locator("td.absent").first.get_attribute("title") == WRAPPED


def test_a_row_of_the_matrix_leads_to_the_row_and_its_attacks(visit, attacked_address):
    page = visit(attacked_address)
    page.locator("table.probes").get_by_role("link", name="ike").click()
    assert page.evaluate("document.activeElement.textContent") == "ike"
    attacks = page.get_by_role("region", name="Attacks of ike").get_by_role("row")
    assert WRAPPED in attacks.nth(1).inner_text()
    cells = attacks.nth(3).get_by_role("cell").all_inner_texts()
    assert cells[1:3] == ["0.900", "0.300"]
    assert cells[4].startswith("0.200")
    assert "steps=2" in attacks.nth(3).get_by_role("rowheader").inner_text()
    page.goto(f"{attacked_address}#method=ike")
    page.reload()
    assert page.get_by_role("region", name="Attacks of ike").is_visible()
    heads = page.locator(".method-page > .scroll thead th").all_inner_texts()
    assert "robustness" in heads


@pytest.mark.parametrize("width, scheme", [(DESK, "light"), (DESK, "dark"), (PHONE, "light")])
def test_axe_finds_nothing_to_complain_of_in_attacks(visit, attacked_address, width, scheme):
    page = visit(attacked_address, width=width, color_scheme=scheme)
    page.get_by_role("button", name="ike", exact=True).click()
    assert overflow(page) <= 0
    assert violations(page) == []


def test_hostile_words_of_a_probe_neither_run_nor_break_the_layout(visit, tmp_path):
    for text in HOSTILE:
        page = visit(written(tmp_path, attacked_board(text)), width=PHONE)
        for button in page.locator(".disclose").all():
            button.click()
        assert page.locator(".reasons li").first.inner_text().startswith(text[:20].strip())
        assert page.locator("script").count() == 2
        assert page.locator("main b, main img").count() == 0
        assert overflow(page) <= 0


# --- assistive tools ------------------------------------------------------------------------------


def violations(page):
    axe = pytest.importorskip("axe_playwright_python.base")
    page.evaluate(axe.AXE_SCRIPT)
    found = page.evaluate("axe.run({ resultTypes: ['violations'] })")["violations"]
    return [(v["id"], v["help"], [node["html"][:200] for node in v["nodes"]]) for v in found]


@pytest.mark.parametrize("width, scheme", [(DESK, "light"), (DESK, "dark"), (PHONE, "light")])
def test_axe_finds_nothing_to_complain_of(visit, address, width, scheme):
    page = visit(address, width=width, color_scheme=scheme)
    page.get_by_role("button", name="npo", exact=True).first.click()
    assert violations(page) == []
    page.goto("about:blank")
    page.goto(f"{address}#method=npo")
    assert page.locator(".method-page").is_visible()
    assert violations(page) == []


def test_headings_are_in_order_and_the_page_says_its_language(visit, address):
    page = visit(address)
    assert page.locator("html").get_attribute("lang") == "en"
    for fragment in ("", "#method=npo"):
        page.goto("about:blank")
        page.goto(address + fragment)
        levels = page.evaluate(
            "[...document.querySelectorAll('h1,h2,h3,h4')].filter((h) => h.checkVisibility())"
            ".map((h) => +h.localName[1])"
        )
        assert levels[0] == 1
        assert levels.count(1) == 1
        assert all(after - before <= 1 for before, after in pairwise(levels))


def test_the_skip_link_is_first_and_leads_to_the_tables(visit, address):
    page = visit(address)
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the tables"
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "tables"
    assert page.url == address  # a place in the page is no view


def test_every_control_shows_where_the_focus_is(visit, address):
    page = visit(address)
    for selector in (
        "#theme",
        "#filter-tag",
        "#filter-text",
        ".disclose",
        "th button",
        ".matrix a",
    ):
        page.keyboard.press("Tab")  # from here on the browser shows focus
        page.locator(selector).first.focus()
        style = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
        assert style != "none", selector


def test_a_page_on_a_phone_fits_and_small_targets_are_large_enough(visit, address):
    page = visit(address, width=PHONE, has_touch=True)
    assert overflow(page) <= 0
    for selector in (".disclose", ".matrix td a", "th button"):
        assert page.locator(f"{selector}:visible").first.bounding_box()["height"] >= 24
    page.get_by_role("button", name="npo", exact=True).first.tap()
    assert len(opened(page)) == 1
    assert overflow(page) <= 0


def test_sentences_in_a_table_are_as_wide_as_a_phone_wherever_it_is_scrolled_to(visit, tmp_path):
    words = "The machine had no room for all that the attack has to keep. " * 2
    attacks = {"attack-0": no_probe(words), "attack-1": probe(0.4)}
    scores = {"privacy": 0.4, "robustness": 0.6}
    runs = seeds(method="npo", retained=(0.64, 0.98), probes=attacks, scores=scores)
    page = visit(written(tmp_path, runs), width=390, has_touch=True)
    page.get_by_role("button", name="npo", exact=True).tap()
    table = page.locator(".board .scroll").first
    room = table.evaluate("e => e.scrollWidth - e.clientWidth")
    assert room > 50  # or the table fits, and there is nothing to see here
    sentences = page.locator(".board caption .said, .said:visible, tr.detail > td > *:visible")
    assert sentences.count() >= 6
    for left in (0, room):
        table.evaluate("(e, left) => { e.scrollLeft = left; }", left)
        for box in (one.bounding_box() for one in sentences.all()):
            assert box["x"] >= 0
            assert box["x"] + box["width"] <= 390
    assert overflow(page) <= 0
    # A shade says that there is more; it lies under what scrolls along.
    layers = table.evaluate("e => getComputedStyle(e).backgroundAttachment")
    assert layers == "local, local, scroll, scroll"


def test_the_page_is_one_file(address):
    assert [path.name for path in Path(address.removeprefix("file://")).parent.iterdir()] == [
        "index.html"
    ]
