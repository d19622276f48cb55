"""Foreign text made printable, shortened and wrapped."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_tokenbudget.reports.text import crop, markdown, plain, shorten, terminal, to_ascii, width, wrap
from support.strategies import hostile

LONG = "tests/agents/test_support.py::TestRefunds::test_refund_over_limit[gold|eu]"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\nb\tc\x1b[31m", r"a\nb\tc\x1b[31m"),
        ("\u202eabc\u200b", r"\u202eabc\u200b"),
        ("a\u00a0b\u3000c", "a b c"),
        ("\ud800", r"\ud800"),
        ("e\u0301 返金 [a|b]", "é 返金 [a|b]"),
        ("x" * 700, "x" * 600 + "..."),
    ],
)
def test_plain(text: str, shown: str) -> None:
    assert plain(text) == shown


@pytest.mark.parametrize(
    ("columns", "shown"),
    [
        (80, LONG),
        (60, "tests/agents/test_support.…::test_refund_over_limit[gold|eu]"),
        (40, "tests/…::test_refund_over_limit[gold|eu]"),
        (34, "…::test_refund_over_limit[gold|eu]"),
        (20, "tes…r_limit[gold|eu]"),
        (12, "t…imit[…|eu]"),
    ],
)
def test_shorten(columns: int, shown: str) -> None:
    assert shorten(LONG, columns) == shown


@given(hostile, st.integers(0, 90), st.sampled_from(["…", "..."]))
def test_fits(text: str, columns: int, mark: str) -> None:
    shown = plain(text)
    assert shown.isprintable()
    assert width(shorten(shown, columns, mark)) <= columns
    assert width(crop(shown, columns, mark)) <= columns
    assert to_ascii(shown).isascii()


@given(hostile, st.integers(4, 90))
def test_wrapping_loses_nothing(text: str, columns: int) -> None:
    shown = plain(text)
    lines = list(wrap(shown, columns, "", ""))
    assert all(width(line) <= columns for line in lines)
    assert "".join(lines).replace(" ", "") == shown.replace(" ", "")


def test_a_few_words_in_brackets_stay_together() -> None:
    said = "breaks at character 27 (system_changed, date or time), where it leaves"
    assert list(wrap(said, 44)) == [
        "breaks at character 27",
        "(system_changed, date or time), where it",
        "leaves",
    ]
    assert list(wrap(said, 20))[2] == "(system_changed, dat", "what fits into no line is broken"


def test_tables_leave_text_alone() -> None:
    rows = [["test_返金[a|b]", "1e5"], ["x", "007"]]
    assert terminal(["scenario", "n"], rows, [False, True]) == [
        "scenario          n",
        "test_返金[a|b]  1e5",
        "x               007",
    ]
    assert markdown(["s", "n"], [["`a\\|b`", "1e5"]], [False, True]).splitlines() == [
        "| s | n |",
        "| :--- | ---: |",
        "| `a\\|b` | 1e5 |",
    ]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("::error::boom", r"\x3a:error::boom"),
        ("a\n::add-matcher::m.json", r"a\n::add-matcher::m.json"),
        ("a ::warning file=a.py,line=1::b", r"a \x3a:warning file=a.py,line=1::b"),
        ("it says ##[group]x", r"it says \x23#[group]x"),
        ("##vso[task.setvariable]x", r"\x23#vso[task.setvariable]x"),
        ("tests/test_a.py::error::test_b[x]", "tests/test_a.py::error::test_b[x]"),
        ("## A heading", "## A heading"),
        ("std ::string", "std ::string"),
    ],
)
def test_no_text_is_a_command_of_a_ci_log(text: str, shown: str) -> None:
    assert plain(text) == shown
