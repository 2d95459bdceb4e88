"""`leaderboard.tex`, read by a LaTeX parser that is not ours."""

import csv
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pylatexenc.latexwalker import (
    LatexCharsNode,
    LatexEnvironmentNode,
    LatexGroupNode,
    LatexMacroNode,
    LatexMathNode,
    LatexSpecialsNode,
    LatexWalker,
)

from tests.leaderboard.factory import entries, result, seeds
from unlearnbench_leaderboard.tables.board import tables_of
from unlearnbench_leaderboard.tables.formats import clean
from unlearnbench_leaderboard.writing import data_files, latex

#: What a reader sees of a command that takes nothing.
SHOWN = {
    **{sign: sign for sign in "{}$&%#_"},
    "textbackslash": "\\",
    "textasciicircum": "^",
    "textasciitilde": "~",
    "textless": "<",
    "textgreater": ">",
    "textbar": "|",
    "textquotedbl": '"',
    "ldots": "…",
    "textperiodcentered": "·",
}
MATHS = {r"\uparrow": "↑", r"\downarrow": "↓", r"\Delta": "Δ", "_{0}": "₀", "_{1}": "₁", "-": "-"}
HOSTILE = [
    r"\end{longtable}\input{/etc/passwd}",
    r"a & b \\ c",
    "% the rest is a comment",
    "[2mm] an option",
    "* a star",
    "} } {",
    r"\write18{rm -rf /}",
    "$x^2_3$ ~#1 \"'` -- --- ,, <<>> |",
]


def parsed(text):
    """The nodes; an unclosed brace or environment is an error."""
    return LatexWalker(text, tolerant_parsing=False).get_latex_nodes()[0]


def shown(nodes) -> str:
    """The text that a reader sees; a KeyError at any command that is not one of `SHOWN`."""
    out = []
    for node in nodes:
        match node:
            case LatexCharsNode():
                out.append(node.chars)
            case LatexGroupNode():
                out.append(shown(node.nodelist))
            case LatexMathNode():
                out.append(MATHS[node.latex_verbatim().strip("$")])
            case LatexSpecialsNode():
                out.append({"--": "–"}[node.specials_chars])
            case LatexMacroNode() if node.macroname in ("textbf", "emph", "multicolumn"):
                out.append(shown(node.nodeargd.argnlist[-1].nodelist))
            case LatexMacroNode():
                out.append(SHOWN[node.macroname] + node.macro_post_space)
            case _:
                raise AssertionError(node)
    return "".join(out)


def expected(text: str) -> str:
    """What has to be seen: the text, with a number for what an old font does not have."""
    known = {*SHOWN.values(), *MATHS.values(), "–"}
    latin = {chr(c) for c in range(0xC0, 0x100)} - {"×", "÷"}
    return "".join(
        c if c.isascii() or c in known | latin else f"U+{ord(c):04X}" for c in clean(text)
    )


@given(st.text() | st.text("\\{}$&%#_^~<>|\"'`[]*-,?!–…·ab 1"))
def test_any_text_is_shown_as_it_is(text):
    assert shown(parsed(latex.escape(text))) == expected(text)


@pytest.mark.parametrize("text", HOSTILE)
def test_text_that_would_be_a_command_is_text(text):
    assert shown(parsed(latex.escape(text))) == text


@pytest.mark.parametrize("text", ["[2mm] x", "* x"])
def test_nothing_at_the_start_of_a_row_is_an_option_of_the_line_break(text):
    assert latex.escape(text).startswith("{")


def tabulars(text):
    """The rows of each longtable, each row a list of the cells' nodes."""
    found = []
    for node in parsed(text):
        if isinstance(node, LatexEnvironmentNode):
            assert node.environmentname == "longtable"
            found.append(rows_of(node.nodelist))
    return found


RULES = ("toprule", "midrule", "bottomrule", "endfirsthead", "endhead", "endfoot")


def rows_of(nodes):
    rows, row = [], [[]]
    for node in nodes:
        if isinstance(node, LatexMacroNode) and node.macroname == "\\":
            rows.append(row)
            row = [[]]
        elif isinstance(node, LatexMacroNode) and node.macroname in RULES:
            assert not "".join(n.latex_verbatim() for n in row[0]).strip()
            row = [[]]
        elif isinstance(node, LatexSpecialsNode) and node.specials_chars == "&":
            row.append([])
        else:
            row[-1].append(node)
    return rows


def board(names):
    made = [r for name in names for r in seeds(method=name, forget=0.7, jitter=0.02)]
    made += [result("none", 0.06, 1.0, role="reference", flags=["deterministic"])]
    made += [result("late"), result("never", status="failed", message="50 % of it & more")]
    made += seeds(method="slow", forget=0.8, scores={"privacy": 0.4})
    return tables_of(entries(made))


def test_every_row_has_a_cell_for_each_column_whatever_methods_are_called():
    tables = board(HOSTILE)
    (rows,) = tabulars(latex.document(tables))
    _caption, head, again, *body = rows
    heads = [shown(cell).strip() for cell in head]
    assert heads == [shown(cell).strip() for cell in again]
    assert heads[:4] == ["rank", "method", "forget ↑", "utility ↑"]
    titles = [row for row in body if len(row) == 1]
    lines = [row for row in body if len(row) > 1]
    assert {len(row) for row in lines} == {len(heads)}
    assert len(titles) == 3
    shown_names = {shown(row[1]).strip() for row in lines}
    assert shown_names >= {name.strip() for name in HOSTILE}


def test_numbers_are_those_of_the_csv_and_in_its_order():
    tables = board(["grad-diff", "npo"])
    (rows,) = tabulars(latex.document(tables))
    lines = [[shown(cell).strip() for cell in row] for row in rows[3:] if len(row) > 1]
    known = list(csv.DictReader(io.StringIO(data_files.csv_bytes(tables).decode())))
    known = [row for row in known if row["status"] != "unfinished"]
    assert [line[1] for line in lines] == [row["label"] for row in known]
    for line, row in zip(lines, known, strict=True):
        rank = f"{row['rank']} [{row['rank_low']}–{row['rank_high']}]" if row["rank"] else "–"
        assert line[0] == rank
        low, high = (float(row[f"forget_{end}"]) for end in ("low", "high"))
        assert line[2] == f"{float(row['forget']):.3f} [{low:.3f}–{high:.3f}]"


def test_a_minus_is_no_hyphen_and_no_dash():
    lower = result(
        "lower", extra=[metric("forget_quality_log10_p", -3.25)], flags=["deterministic"]
    )
    (rows,) = tabulars(latex.document(tables_of(entries([lower]))))
    assert "$-$3.250" in ["".join(n.latex_verbatim() for n in c).strip() for c in rows[-1]]


def metric(name, value):
    from unlearnbench.results import Metric

    return Metric(name=name, split="forget", value=value, n=400, higher_is_better=True)


def test_notes_and_endings_stand_below_the_table():
    text = latex.document(board(["grad-diff"]))
    _, below = text.split(r"\end{longtable}")
    assert r"\noindent late: 1 finished seed, 3 needed\par" in below
    assert r"\noindent never: failed: 50 \% of it \& more (seed 0)\par" in below


def test_tables_are_found_by_their_labels():
    made = [*seeds(), *seeds(model="llama")]
    tables = tables_of(entries(made))
    text = latex.document(tables)
    assert len(tabulars(text)) == 2
    for table in tables:
        assert text.count(rf"\label{{tab:{table.id}}}") == 1
