"""The page as it is written: one file, whole without scripts, safe with any text.

What a browser makes of it is in `test_browser.py`.
"""

import base64
import hashlib
import json
import re
from html.parser import HTMLParser

import pytest

from tests.leaderboard.factory import entries, result, seeds
from unlearnbench_leaderboard.build import build
from unlearnbench_leaderboard.page.document import embedded_json
from unlearnbench_leaderboard.page.labels import Box, place_labels
from unlearnbench_leaderboard.page.plot import WIDE, svg
from unlearnbench_leaderboard.tables.board import tables_of

VOID = {"meta", "link", "input", "br"}


class Page(HTMLParser):
    """Elements of a page, in order, with their attributes and text; unbalanced tags are faults."""

    def __init__(self, html):
        super().__init__(convert_charrefs=True)
        self.elements, self.open, self.faults = [], [], []
        self.feed(html)
        self.close()
        self.faults += [f"<{tag}> is not closed" for tag, _ in self.open]

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes), []))
        if tag not in VOID:
            self.open.append((tag, self.elements[-1]))

    def handle_startendtag(self, tag, attributes):
        self.elements.append((tag, dict(attributes), []))

    def handle_endtag(self, tag):
        if not self.open or self.open[-1][0] != tag:
            self.faults.append(f"</{tag}> closes {self.open[-1:]}")
        else:
            self.open.pop()

    def handle_data(self, data):
        for _, element in self.open:
            element[2].append(data)

    def all(self, tag, **attributes):
        return [
            (found, "".join(text))
            for name, found, text in self.elements
            if name == tag and all(found.get(k.strip("_")) == v for k, v in attributes.items())
        ]


def board():
    return [
        *seeds(method="npo", forget=0.81, utility=0.86, jitter=0.01),
        *seeds(method="rmu", forget=0.7, guarantee="knowledge-removal", config={"layer": 7}),
        *seeds(method="wise", forget=0.9, utility=0.95, guarantee="suppression"),
        *seeds(method="grad-ascent", forget=0.95, utility=0.2),
        result(method="keyword-filter", role="reference", forget=0.93, utility=0.99),
        result(method="memit", status="diverged"),
        *seeds(task="wmdp", split="bio"),
    ]


def data_of(page):
    """What the script reads."""
    ((_, text),) = page.all("script", type="application/json")
    return json.loads(text)


def html_of(results):
    return build(entries(results))["index.html"].decode()


@pytest.fixture(scope="module")
def html():
    return html_of(board())


@pytest.fixture(scope="module")
def page(html):
    return Page(html)


def test_every_element_is_closed_and_every_id_is_used_once(page):
    assert page.faults == []
    ids = [attributes["id"] for _, attributes, _ in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))


def test_the_page_asks_for_nothing_from_elsewhere(html, page):
    assert not re.search(
        r"""(?:src|srcset|href|action|poster)\s*=\s*["']?\s*(?:https?:)?//""", html
    )
    assert not re.search(r"url\(|@import|fetch\(|XMLHttpRequest|import\(", html)
    (icon,) = [a.get("href") for a, _ in page.all("link")]
    assert icon.startswith("data:image/svg+xml;base64,")
    assert b"<svg" in base64.b64decode(icon.partition(",")[2])
    assert not [a for a, _ in page.all("script") if "src" in a]
    assert not page.all("img")
    assert not page.all("iframe")


def test_the_policy_admits_exactly_our_script_and_style(html, page):
    (policy,) = [a["content"] for a, _ in page.all("meta") if "http-equiv" in a]
    assert policy.startswith("default-src 'none';")
    script = re.search(r"<script>(.*?)</script>", html, re.DOTALL)
    style = re.search(r"<style>(.*?)</style>", html, re.DOTALL)
    for found in (script, style):
        digest = base64.b64encode(hashlib.sha256(found.group(1).encode()).digest()).decode()
        assert f"'sha256-{digest}'" in policy
    assert not re.search(
        r"\son[a-z]+\s*=|\sstyle\s*=", re.sub(r"<script.*?</script>", "", html, flags=re.S)
    )


def test_tables_have_captions_and_scopes(page):
    assert len(page.all("table")) == len(page.all("caption")) == 3  # two, and all at a glance
    heads = [a for a, _ in page.all("th") if a.get("scope") == "col" and "data-key" in a]
    assert {a["aria-sort"] for a in heads} == {"ascending", "none"}
    assert all("scope" in a for a, _ in page.all("th"))


def test_the_document_holds_each_row_and_the_data_its_details_once(page):
    rows = [a["data-row"] for a, _ in page.all("tr", _class="row") if "data-row" in a]
    data = [row for table in data_of(page)["tables"] for row in table["rows"]]
    assert [row["id"] for row in data] == rows
    npo = next(row for row in data if row["method"] == "npo")
    assert npo["seeds"] == [0, 1, 2]
    assert [run[0] for run in npo["runs"]] == [0, 1, 2]
    names = [metric[0] for metric in data_of(page)["tables"][0]["metrics"]]
    mean, *by_seed = npo["metrics"][names.index("forget")]
    assert mean == "0.810"
    assert [text.split(" ")[0] for text in by_seed] == ["0.800", "0.810", "0.820"]
    assert npo["spread"][0][:2] == ["forget", 0.81]
    assert [seed[:2] for seed in npo["spread"][0][4]] == [[0, 0.8], [1, 0.81], [2, 0.82]]


def test_a_page_stays_small_because_nothing_is_in_it_twice():
    one = len(html_of(seeds(method="npo")))
    many = [r for i in range(40) for r in seeds(method="npo", config={"i": i})]
    assert (len(html_of(many)) - one) / 40 < 6000  # a row of three seeds


def test_at_a_glance_each_method_has_its_best_rank_in_each_table():
    rows = [
        *seeds(method="a", forget=0.9, config={"lr": 1}),
        *seeds(method="a", forget=0.5, config={"lr": 2}),
        *seeds(method="b", forget=0.7),
        *seeds(method="b", task="wmdp", split="bio", utility=0.1),
    ]
    page = Page(html_of(rows))
    links = [
        (a["title"], text.strip())
        for a, text in page.all("a")
        if a["href"].startswith("#r-")
        if "title" in a
    ]
    assert links == [
        ("a (lr=1): rank 1 [1-1]", "1"),
        ("b: rank 2 [2-2]", "2"),
        ("b: listed, not ranked", "·not ranked"),
    ]
    assert 'class="glance"' not in html_of(seeds())  # nothing to compare


def test_each_point_of_the_plot_links_to_its_row(page):
    rows = {f"#{a['id']}" for a, _ in page.all("tr", _class="row") if "id" in a}
    links = [a["href"] for a, _ in page.all("a") if a.get("class", "").startswith("point")]
    assert len(links) == 2 * 8  # wide and narrow; 6 marks and 2
    assert set(links) <= rows


def test_result_files_are_linked_by_relative_paths(page):
    runs = [run for t in data_of(page)["tables"] for row in t["rows"] for run in row["runs"]]
    assert len(runs) == len(board())
    assert all(re.fullmatch(r"results/[0-9a-f]{16}\.json", run[3]) for run in runs)


def test_the_glossary_explains_each_column_and_its_direction(page):
    terms = [text for _, text in page.all("dt")]
    for column in ("rank", "forget ↑, higher is better", "utility ↑, higher is better", "tier"):
        assert any(column in " ".join(term.split()) for term in terms)
    assert any("sec" in term and "lower is better" in term for term in terms)


def test_the_details_of_a_tuned_row_say_how_it_was_chosen():
    tables = data_of(Page(html_of(seeds(trials=8))))["tables"]
    text = json.dumps(tables[0]["rows"][-1]["facts"])
    assert "trial 7 of 8 on tofu forget05 phi-1.5, seed 0, by forget-utility-harmonic-1" in text
    assert "searched: lr {" in text
    assert "searched" not in html_of(seeds())


def test_rows_that_did_not_finish_are_there_with_their_message(page):
    text = " ".join(text for _, text in page.all("main"))
    assert "Did not finish" in text
    assert "diverged: a loss became NaN at step 12 (seed 0)" in text


# --- hostile text ---------------------------------------------------------------------------------

HOSTILE = [
    "<script>alert(1)</script>",
    "</script><img src=x onerror=alert(1)>",
    "\"><svg onload='alert(1)'>",
    "'single' & \"double\"",
    "{{ 7 * 7 }}{% raw %}",
    "שלום עולם مرحبا",
    "\u202eevil\u2066 \u2028\u2029 \x00\x1b[31m",
    "javascript:alert(1)",
    "<!-- --> ]]> <style>*{display:none}</style>",
    "日本語の名前",
    ("<b>" * 67)[:200],
    "x" * 200,
]


@pytest.mark.parametrize("text", HOSTILE)
def test_text_of_a_result_is_shown_and_never_run(text):
    results = [
        *seeds(
            method=text,
            target=text,
            config={text: text},
            flags=[text],
            distribution=text,
            task=text,
            split=text,
            model=text,
        ),
        result(method=text, status="failed", message=text, task=text, split=text, model=text),
    ]
    html = html_of(results)
    page = Page(html)
    clean = Page(html_of(board()))
    assert page.faults == []
    assert {tag for tag, _, _ in page.elements} <= {tag for tag, _, _ in clean.elements}
    assert len(page.all("script")) == 2
    assert not [k for _, attributes, _ in page.elements for k in attributes if k.startswith("on")]
    assert all(not a.get("href", "").startswith("javascript") for a, _ in page.all("a"))
    assert not re.search("[\u202a-\u202e\u2066-\u2069\u2028\u2029\x00\x1b]", html)
    assert data_of(page)["tables"][0]["rows"]


def test_embedded_json_cannot_end_its_element_and_comes_back():
    value = {"name": "</script><!-- & \u2028 \u2029 \" ' 😀"}
    text = embedded_json(value)
    assert not set(text) & set("<>&\u2028\u2029")
    assert json.loads(text) == value


def test_a_link_to_a_file_cannot_become_another_scheme(tmp_path):
    from tests.leaderboard.factory import dump
    from unlearnbench_leaderboard.tables.entries import read_entries, unverified

    folder = tmp_path / "javascript:alert(1)"
    folder.mkdir()
    (folder / "a b<&>.json").write_bytes(dump(result()))
    (entry,) = read_entries([tmp_path], tmp_path, unverified).entries
    assert entry.href == "javascript%3Aalert%281%29/a%20b%3C%26%3E.json"


# --- plot -----------------------------------------------------------------------------------------


def test_the_plot_is_svg_with_front_floors_and_hollow_references():
    rows = [
        *seeds(method="a", forget=0.9, utility=0.6),
        *seeds(method="b", forget=0.6, utility=0.9),
        result(method="keyword-filter", role="reference", forget=0.93, utility=0.99),
    ]
    (table,) = tables_of(entries(rows))
    drawn = str(svg(table, WIDE))
    assert drawn.count('class="front data-deletion"') == 1
    assert drawn.count('class="floor"') == 2
    assert drawn.count('<a class="point reference"') == 2  # and the one before unlearning
    assert "forget 0.900 [" in drawn


def test_marks_go_by_their_method_and_a_tuned_one_says_so():
    rows = [
        *seeds(method="npo", config={"lr": 1e-5}, forget=0.5),
        *seeds(method="npo", config={"lr": 3e-4}, forget=0.8, trials=8),
        *seeds(method="dpo", config={"lr": 3e-4}, forget=0.3, trials=8),
        *seeds(method="rome", config={"lr": 1}, target="idk", forget=0.65),
    ]
    (table,) = tables_of(entries(rows))
    labels = re.findall(r"<text x[^>]*>([^<]*)</text></g>", str(svg(table, WIDE)))
    assert sorted(labels) == ["before unlearning", "dpo", "npo", "npo, tuned", "rome (idk)"]


def test_labels_keep_clear_of_each_other_and_of_all_points():
    points = [(100.0 + 9 * (i % 5), 100.0 + 9 * (i // 5)) for i in range(20)]
    area = Box(0, 0, 400, 300)
    placed = place_labels(points, [f"method-{i}" for i in range(20)], area, 12)
    assert placed
    for i, label in enumerate(placed):
        assert label.box.inside(area)
        assert not any(label.box.overlaps(other.box) for other in placed[:i])
        marks = [Box(x - 3, y - 3, x + 3, y + 3) for x, y in points]
        assert not any(label.box.overlaps(mark) for mark in marks)


def test_a_table_with_nothing_to_plot_has_no_plot():
    (table,) = tables_of(entries([result(status="failed")]))
    assert svg(table, WIDE) == ""
    assert "<figure>" not in html_of([result(status="failed")])
