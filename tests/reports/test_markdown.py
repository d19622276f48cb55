"""The Markdown report: golden files, GitHub's limits, and no text of a prompt that is more than text."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from typing import Any

import cmarkgfm
import pytest
from cmarkgfm.cmark import Options
from hypothesis import given
from hypothesis import strategies as st

from pytest_tokenbudget.errors import ReportError
from pytest_tokenbudget.reports.baseline_report import Accepting
from pytest_tokenbudget.reports.markdown import Links, markdown, marker
from pytest_tokenbudget.reports.text import code, html, html_code, plain, prose
from support.documents import SONNET, finding, let_run, loop, scenario
from support.documents import document as made
from support.strategies import documents as any_document
from support.strategies import hostile

OURS = {
    "h3", "p", "br", "table", "thead", "tbody", "tr", "th", "td", "ul", "li", "strong", "em", "code", "pre",
    "details", "summary", "sub",
}  # fmt: skip
LINKED = re.compile(r"@\w|#\d|GH-\d|://|www\.|[0-9a-f]{7}", re.IGNORECASE)
"""What GitHub makes a mention, a reference, an address or a commit of, wherever it is not code."""


class Page(HTMLParser):
    """The elements of a page, the cells of its tables by row, and its text in and outside of code."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.rows: list[list[str]] = []
        self.said: list[str] = []
        self.comments: list[str] = []
        self.inside: list[str] = []
        self.feed(cmarkgfm.github_flavored_markdown_to_html(source, options=Options.CMARK_OPT_UNSAFE))
        self.close()
        self.text = "".join(self.said)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert not [name for name, _ in attrs if name not in ("align", "lang")], "no attribute of anybody's"
        self.tags.add(tag)
        self.said.append("\n")
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")
        if tag != "br":
            self.inside.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.inside.pop() == tag
        self.said.append("\n")

    def handle_data(self, data: str) -> None:
        if "code" not in self.inside:
            self.said.append(data)
        if {"td", "th"} & set(self.inside):
            self.rows[-1][-1] += data

    def handle_comment(self, data: str) -> None:
        self.comments.append(data)


@pytest.mark.parametrize(
    ("name", "full", "runs"),
    [("green", False, None), ("each", False, None), ("each", True, 30_000), ("many", False, None)],
)
def test_golden(documents: Any, golden: Any, name: str, full: bool, runs: float | None) -> None:
    text = markdown(documents[name], full=full, runs_per_month=runs)
    golden(f"{name}{'-full' if full else ''}.md", text)


def test_is_quiet_when_nothing_changed(documents: Any) -> None:
    text = markdown(documents["green"])
    assert text == ("<!-- pytest-tokenbudget -->\n\n14 scenarios are within budget, nothing changed.\n")
    assert markdown(documents["green"], full=True) == text


def test_a_change_within_budget_is_told_but_folded() -> None:
    one = scenario("tests/test_a.py::test_b", "within", loop(SONNET, 1000, [10]), loop(SONNET, 1010, [10]))
    page = Page(markdown(made([one])))
    assert "1 scenario is within budget: +10 prompt tokens (+0.9%)" in page.text
    assert "details" in page.tags


def test_markers_tell_jobs_apart() -> None:
    assert marker("py3.12") == "<!-- pytest-tokenbudget py3.12 -->"
    assert markdown(made([]), suffix="a (b)").startswith("<!-- pytest-tokenbudget a (b) -->\n")
    for bad in ("-->", "a--b", "a\nb", "<x>", "-", "--!>"):
        with pytest.raises(ReportError, match="suffix"):
            marker(bad)


def test_costs_a_month_by_scenario() -> None:
    was, now = loop(SONNET, 1000, [10]), loop(SONNET, 2000, [10])
    both = [scenario(f"tests/test_a.py::test_{n}", "over", was, now) for n in "ab"]
    let_run(both[0], 1000)
    cells = Page(markdown(made(both))).rows
    assert [row[5] for row in cells[:3]] == ["Cost a run,a month", "+$0.0025+$2.50", "+$0.0025"]
    cells = Page(markdown(made(both), runs_per_month=2000)).rows
    assert [row[5] for row in cells[1:3]] == ["+$0.0025+$2.50", "+$0.0025+$5.00"]


def test_no_word_of_a_cell_makes_the_table_wide() -> None:
    where, place = "tools[find].input_schema" + ".properties.x" * 20, "prompts/" * 20 + "a.md:3"
    was, now = loop(SONNET, 1000, [10]), loop(SONNET, 2000, [10])
    grown = finding("growth", where, f"{where}: it grew, from {place}", tokens=1000, at=place)
    text = markdown(made([scenario("t/" * 40 + "test_a.py::test_b", "over", was, now, findings=[grown])]))
    _, table, details = text.split("<details>")
    assert max(len(word) for row in Page("<details>" + table).rows for word in row[0].split()) < 60
    assert where in details.replace("\\", "")
    assert place in details


def test_the_changes_come_first_and_the_numbers_are_folded() -> None:
    was, now = loop(SONNET, 1000, [10]), loop(SONNET, 2000, [10])
    grown = finding(
        "growth", "system[0]", "system[0]: +1,000 tokens", tokens=1000, cost=0.0025, at="p/a b.md:3"
    )
    each = [scenario(f"t/test_a.py::test_{n}", "over", was, now, findings=[grown]) for n in range(45)]
    for one in each:
        let_run(one, 1000)
    text = markdown(made(each))
    headline, changes, command, folded, *_ = text.split("\n\n")[1:]
    assert headline == (
        "### +\\$112.50 a month, +\\$0.1125 a run (+91.9%), +45,000 prompt tokens (+94.3%): "
        "45 of 45 scenarios are over budget"
    )
    assert changes == (
        "- **`p/a b.md:3`**: the system prompt (system\\[0\\]): +45,000 prompt tokens, +\\$0.1125 a run, "
        "+\\$112.50 a month, in 45 scenarios together\n"
        "  - in `test_0`: system\\[0\\]: +1,000 tokens"
    )
    assert command.startswith("```sh")
    assert folded == "<details><summary>45 scenarios fail</summary>"


def test_links_are_made_of_what_github_says_alone() -> None:
    was, now = loop(SONNET, 1000, [10]), loop(SONNET, 2000, [10])
    at = "https://github.com/o/r"
    links = Links(f"{at}/blob/abc", f"{at}/commit/abc", "https://github.com/run")

    def told(at: str) -> str:
        grown = finding("growth", "system[0]", "it grew", tokens=1000, cost=0.0025, at=at)
        return markdown(made([scenario("test_a.py::test", "over", was, now, findings=[grown])]), links=links)

    assert "**[`p/a b.md:3`](https://github.com/o/r/blob/abc/p/a%20b.md#L3)**" in told("p/a b.md:3")
    for elsewhere in ("../../../evil/x.md:3", "/etc/passwd:3"):
        assert "evil" not in re.sub(r"`[^`]*`", "", told(elsewhere))
        assert "](https://github.com/o/r/blob" not in told(elsewhere)
    assert "](https://github.com/o/r/blob/abc/p%29%5Bx%5D%28y.md#L3)" in told("p)[x](y.md:3")
    assert "[head](https://github.com/o/r/commit/abc)" in told("")
    assert "[run and full report](https://github.com/run)" in told("")


def suite(number: int, hostile_text: str = "") -> Any:
    """As many scenarios, each over for a reason of its own."""
    was, now = loop(SONNET, 1000, [10] * 4), loop(SONNET, 2000, [10] * 4)
    causes = [
        finding("growth", f"system[{n}]{hostile_text}", f"it grew {hostile_text}", at="p.md:3")
        for n in range(number)
    ]
    return made(
        scenario(f"tests/test_{n}.py::test{hostile_text}", "over", was, now, findings=[cause])
        for n, cause in enumerate(causes)
    )


def test_one_cause_is_three_rows_and_a_number(documents: Any) -> None:
    short, whole = (Page(markdown(documents["many"], full=full)) for full in (False, True))
    assert len([row for row in short.rows if "over" in row[0]]) == 3
    assert "and 197 more like it" in short.text
    assert len([row for row in whole.rows if "over" in row[0]]) == 200


@pytest.mark.parametrize(("full", "most"), [(False, 60_000), (True, 1_000_000)])
@pytest.mark.parametrize("hostile_text", ["", "|`@*_<" * 100])
def test_cuts_by_rows_and_says_how_many(full: bool, most: int, hostile_text: str) -> None:
    text = markdown(suite(800, hostile_text), full=full)
    assert len(text.encode() if full else text) <= most
    rows = [row for row in Page(text).rows if "over:" in row[0]]
    assert rows
    found = re.search(r"_And ([\d,]+) more, too many for this page", text)
    assert len(rows) + (int(found[1].replace(",", "")) if found else 0) == 800


@pytest.mark.parametrize(
    "text",
    [
        "@octocat and @org/team", "#123", "GH-7", "owner/repo#1", "http://evil.example/x", "www.evil.example",
        "a@b.co", "mailto:a@b.co", "![i](http://x.y)", "[l](javascript:x)", "<img src=x onerror=y>", "**b**",
        "_i_ ~~s~~", "`code", "a | b", "a\\|b", "\\", "&lt;b&gt;", "&#64;octocat", "# h", "```", "a\nb",
        "$x$", "[a]: http://x", "9f2c41d07b8e5a63c1d0f4b7a92e86d3510c7ea4", "<!-- x", "</td>", ":tada:",
    ],
)  # fmt: skip
def test_text_stays_text(text: str) -> None:
    page = Page(f"| a | b |\n|---|---|\n| {prose(text)} | {code(text, cell=True)} |\n\n- x {prose(text)}\n")
    assert [cell.replace("\u200b", "") for cell in page.rows[1]] == [plain(text)] * 2
    assert page.tags <= OURS
    assert not LINKED.search(page.text)


def test_a_list_that_begins_with_a_text_has_no_heading() -> None:
    page = Page(f"- {prose('# h')}\n")
    assert page.tags <= OURS
    assert "# h" in page.text


@given(hostile)
def test_no_text_breaks_out_of_its_cell(text: str) -> None:
    page = Page(
        f"| a | b |\n|---|---|\n| {prose(text)} | {code(text, cell=True)} |\n\n"
        f"- x {prose(text)} {code(text)}\n\n"
        f"<details><summary>{html(text)}{html_code(text)}</summary></details>\n"
    )
    assert [len(row) for row in page.rows] == [2, 2]
    assert page.tags <= OURS
    assert not page.comments
    assert not LINKED.search(page.text)
    assert "\x1b" not in page.text


@given(any_document(), st.booleans(), st.none() | st.floats(0, 1e6))
def test_no_document_writes_markup(document: Any, full: bool, runs: float | None) -> None:
    text = markdown(document, full=full, runs_per_month=runs)
    page = Page(text)
    assert page.tags <= OURS
    assert page.comments == [" pytest-tokenbudget "]
    assert not page.inside
    assert not LINKED.search(page.text)
    widths = [len(row) for row in page.rows]
    heads = [len(re.split(r"(?<!\\)\|", line)) - 2 for line in text.splitlines() if re.match(r"\| :?-", line)]
    assert set(widths) <= set(heads)
    assert all(line.isprintable() for line in text.replace("\u200b", "").split("\n"))


def test_what_is_accepted_and_what_fails_are_two_lists(documents: Any) -> None:
    text = markdown(
        documents["each"], accepting=Accepting(None, ["changes 1 cassette"], ["1 cassette changed"])
    )
    *_, accepted, looks, fails, changes = text.split("\n\n")[:6]
    assert accepted == "**Changes 1 cassette**"
    assert looks == "- **look at**: 1 cassette changed"
    assert fails == "What fails:"
    assert changes.startswith("- **")
