"""The dashboard as a file: what it says, that it asks nobody for anything, that no text of others runs."""

from __future__ import annotations

import gzip
import json
import re
import sys
from base64 import b64decode, b64encode
from hashlib import sha256
from html.parser import HTMLParser
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pytest_tokenbudget.errors import ReportError
from pytest_tokenbudget.reports.dashboard import dashboard
from pytest_tokenbudget.reports.document import Document, add
from pytest_tokenbudget.reports.history import History
from support.documents import NEW_MODEL, SONNET, document, finding, let_run, loop, many, scenario
from support.histories import history_of, with_gaps
from support.sample import examples
from support.strategies import documents as any_document
from support.strategies import hostile

VOID = {"meta", "link", "input"}
LIMIT = 3_000_000
"""Bytes of 500 scenarios over 100 commits."""


class Page(HTMLParser):
    """A page: its elements, its text by element, and its tables. Fails where elements are not nested."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.rows: list[list[str]] = []
        self._open: list[str] = []
        self._pieces: dict[str, list[list[str]]] = {}
        self.feed(source)
        self.close()
        assert self._open == []
        self.texts = {tag: ["".join(parts) for parts in texts] for tag, texts in self._pieces.items()}

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")
        self._pieces.setdefault(tag, []).append([])
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        for tag in set(self._open):
            self._pieces[tag][-1].append(data)
        if {"td", "th"} & set(self._open):
            self.rows[-1][-1] += data

    def all(self, tag: str, **attributes: str) -> list[dict[str, str]]:
        return [
            found
            for name, found in self.elements
            if name == tag and all(found.get(key.rstrip("_")) == value for key, value in attributes.items())
        ]

    def row(self, start: str) -> list[str]:
        """The cells of the first row that begins with `start`."""
        return next(cells for cells in self.rows if cells and cells[0].strip().startswith(start))

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", self.texts["body"][0])


def bare(page: str) -> str:
    """A page without what is held elsewhere: the style, the script, their hashes, and the document."""
    page = re.sub(r"(?<=sha256-)[^&]+", "...", page)
    return re.sub(r"(?s)(<(style|script)[^>]*>).*?(?=</\2>)", r"\1...", page)


def outline(page: str) -> str:
    """A long page without what repeats: of its scenarios the first, the middle and the last."""
    bodies = re.split(r'(?=<tbody id="s\d+")', page)
    last, end = re.split(r"(?<=</tbody>\n)(?=</table>)", bodies[-1], maxsplit=1)
    return "".join([bodies[0], bodies[1], bodies[len(bodies) // 2], last, end])


@pytest.fixture(scope="module")
def pages() -> dict[str, str]:
    from support.documents import all_green, one_of_each

    each, green, every = one_of_each(), all_green(), many()
    return {
        "each": dashboard(each, history_of(each), runs_per_month=30_000),
        "green": dashboard(green, None),
        "history": dashboard(None, with_gaps()),
        "many": dashboard(every, history_of(every, 100)),
    }


@pytest.fixture(scope="module")
def parsed(pages: dict[str, str]) -> dict[str, Page]:
    return {name: Page(source) for name, source in pages.items()}


@pytest.mark.parametrize("name", ["each", "green", "history"])
def test_golden(pages: dict[str, str], golden: Any, name: str) -> None:
    golden(f"{name}.html", bare(pages[name]))


def test_golden_of_many(pages: dict[str, str], golden: Any) -> None:
    golden("many.html", outline(bare(pages["many"])))


def test_500_scenarios_over_100_commits_fit_into_3_megabytes() -> None:
    """Even where every commit changed every baseline."""
    every = many(500)
    assert len(dashboard(every, history_of(every, 100, share=1.0)).encode()) < LIMIT


@pytest.mark.parametrize("name", ["each", "green", "history", "many"])
def test_asks_nobody_for_anything(pages: dict[str, str], parsed: dict[str, Page], name: str) -> None:
    page = parsed[name]
    for tag, attributes in page.elements:
        assert tag not in ("img", "iframe", "object", "embed", "form", "base", "audio", "video")
        assert "src" not in attributes
        assert attributes.get("href", "#").startswith(("#", "data:,"))
    assert "@import" not in page.texts["style"][0]
    assert set(re.findall(r"url\(([^)]*)\)", pages[name])) <= {"#written"}


@pytest.mark.parametrize("name", ["each", "green", "history", "many"])
def test_its_policy_allows_its_own_style_and_script_and_nothing_else(
    parsed: dict[str, Page], name: str
) -> None:
    page = parsed[name]
    (meta,) = page.all("meta", **{"http-equiv": "Content-Security-Policy"})
    policy = dict(part.strip().split(" ", 1) for part in meta["content"].split(";"))
    (style,) = page.texts["style"]
    script = page.texts["script"][-1]
    assert policy == {
        "default-src": "'none'",
        "style-src": f"'sha256-{digest(style)}'",
        "script-src": f"'sha256-{digest(script)}'",
        "img-src": "data:",
        "base-uri": "'none'",
        "form-action": "'none'",
    }
    for _, attributes in page.elements:
        assert not {key for key in attributes if key == "style" or key.startswith("on")}


def digest(text: str) -> str:
    return b64encode(sha256(text.encode()).digest()).decode()


def test_embeds_the_document(parsed: dict[str, Page], documents: dict[str, Document]) -> None:
    page = parsed["each"]
    assert page.all("script", id="document")[0]["type"] == "application/json"
    assert json.loads(page.texts["script"][0]) == documents["each"]


def test_embeds_a_long_document_compressed_and_whole(parsed: dict[str, Page]) -> None:
    page = parsed["many"]
    assert page.all("script", id="document")[0] == {
        "type": "application/gzip",
        "data-encoding": "base64",
        "id": "document",
    }
    assert json.loads(gzip.decompress(b64decode(page.texts["script"][0]))) == many()


def test_is_the_same_page_every_time(pages: dict[str, str]) -> None:
    every = many()
    assert dashboard(every, history_of(every, 100)) == pages["many"]


@pytest.mark.parametrize("name", ["each", "green", "history", "many"])
def test_tables_have_headers_and_pictures_have_words(parsed: dict[str, Page], name: str) -> None:
    page = parsed[name]
    assert {one["scope"] for one in page.all("th")} == {"col", "row"}
    for svg in page.all("svg"):
        told = svg.get("aria-label") or svg.get("aria-hidden") == "true" or svg.get("class") == "plot"
        assert told, "a picture that nobody can hear"
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    for tag, attributes in page.elements:
        target = attributes.get("href", "")
        if target.startswith("#"):
            assert target[1:] in ids, f"<{tag}> leads nowhere: {target}"
        assert all(one in ids for one in attributes.get("aria-labelledby", "").split())


def test_what_is_over_and_why_comes_first(parsed: dict[str, Page]) -> None:
    text = parsed["each"].text
    order = [
        "5 of 15 scenarios are over budget",
        "Cost a month",
        "What needs a decision",
        "support/agent.py:31: the system prompt (system[0])",
        "+$0.0389 a run",
        "the cached prefix breaks at character 18 of system[0]",
        "cache share: 73.9% → 0.0% (−73.9 pts), limit 68.9%",
        "pytest --token-budget --token-budget-update",
        "commit by commit",
        "The commits that moved the suite most",
        "What would be cheaper",
        "One row a scenario",
        "Where the money goes",
        "By folder",
    ]
    places = [text.index(one) for one in order]
    assert places == sorted(places)


def test_estimates_are_marked_and_the_unknown_is_said(parsed: dict[str, Page]) -> None:
    page = parsed["each"]
    estimated = page.row("test_tools.py::TestLookup")
    assert [cell for cell in estimated if cell.startswith("~")] == [
        "~5,523", "~+12.3%", "~48.8%", "~$0.0097", "~+$0.00082", "~$290.08",
    ]  # fmt: skip
    assert estimated[4] == "214", "what a replay answers is recorded"
    unpriced = page.row("test_research.py::test_three_researchers")
    assert unpriced[6:8] == ["unknown", "unknown"]
    assert page.row("claude-sonnet-6-preview")[6] == "unknown"
    assert page.row("test_reflection.py")[1:3] == ["stale", "stale"]
    assert "1 estimated, marked ~" in page.text
    assert "1 unknown: it cannot be told" in page.text


def test_totals_compare_like_with_like(parsed: dict[str, Page], documents: dict[str, Document]) -> None:
    page, totals = parsed["each"], documents["each"]["totals"]
    was, now = totals["baseline"], totals["measured"]
    assert page.row("read from cache")[1] == f"{was['cache_read_input_tokens']:,}"
    assert page.row("written to cache")[2] == f"~{now['cache_creation_input_tokens']:,}"
    assert page.row("output")[2:] == [f"{now['output_tokens']:,}", "no change"]
    assert "Of 12 scenarios with a number then and now, not of 3 that are new, stale or unknown." in page.text
    assert "was $0.1054, without 1 of unknown cost" in page.text


@pytest.mark.parametrize(
    ("runs", "own", "shown"),
    [
        (None, None, None),
        (30_000, None, ["$78.60", "$78.60"]),
        (None, 30_000, ["$78.60", "–"]),
        (60_000, 30_000, ["$78.60", "$157.20"]),
    ],
)
def test_costs_a_month_where_anybody_said_how_often(
    runs: int | None, own: int | None, shown: list[str] | None
) -> None:
    turns = loop(SONNET, 1000, [0])
    both = [scenario(f"tests/test_a.py::test_{name}", "within", turns, turns) for name in "ab"]
    if own is not None:
        let_run(both[0], own)
    page = Page(dashboard(document(both), None, runs_per_month=runs))
    titles = page.row("Scenario")
    if shown is None:
        assert "Cost a month" not in page.text
        return
    month = titles.index("Cost a month")
    assert [page.row(f"test_{name}")[month] for name in "ab"] == shown


def test_a_month_of_an_unknown_price_is_unknown() -> None:
    turns = loop(NEW_MODEL, 1000, [0])
    one = scenario("t.py::test_a", "within", turns, turns)
    page = Page(dashboard(document([one]), None, runs_per_month=9))
    assert page.row("test_a")[page.row("Scenario").index("Cost a month")] == "unknown"


def test_outliers_are_named() -> None:
    small, large = loop(SONNET, 1000, [10]), loop(SONNET, 90_000, [10])
    listed = [scenario(f"tests/test_a.py::test_{n}", "within", small, small) for n in range(9)]
    listed.append(scenario("tests/test_a.py::test_large", "within", large, large))
    page = Page(dashboard(document(listed), None))
    assert page.row("test_large outlier")[1] == f"${add(large)['cost_usd']:.4f}"
    assert "1 of 10 scenarios holds 90.2% of the" in page.text
    assert "1 costs far more than the others" in page.text


def test_without_a_history_there_is_no_trend(parsed: dict[str, Page]) -> None:
    page = parsed["green"]
    assert "commit by commit" not in page.text
    assert "Trend" not in page.row("Scenario")
    assert not page.all("svg", class_="spark")


def test_a_history_alone_shows_the_baselines_of_today(parsed: dict[str, Page]) -> None:
    page = parsed["history"]
    assert page.texts["h1"] == ["4 baselines over 6 commits"]
    assert "Verdict" not in page.row("Scenario")
    assert "What needs a decision" not in page.text
    assert page.row("test_a.py::test_always")[1:3] == ["2,665", "+17.7%"]
    assert "test_gone " not in page.text, "a baseline that is no more is no scenario"
    assert page.row("test_b.py::test_unpriced")[5:7] == ["unknown", "unknown"]
    assert [cell.strip() for cell in page.row("0000000")] == [
        "0000000", "2026-04-03", "Move to the new model", "2,665", "+400", "$0.0048",
    ]  # fmt: skip
    assert "A gap: a price is unknown there." in page.text


def test_a_run_that_the_history_does_not_know_has_no_trend() -> None:
    turns = loop(SONNET, 1000, [10])
    page = Page(dashboard(document([scenario("t.py::test_a", "new", None, turns)]), with_gaps()))
    assert page.row("test_a")[-1] == "–"


@pytest.mark.parametrize("history", [None, {**with_gaps(), "commits": [], "scenarios": {}}])
def test_nothing_is_said_to_be_nothing(history: History | None) -> None:
    assert "No scenario was measured" in Page(dashboard(document([]), history)).text
    assert "No commit holds a baseline yet" in Page(dashboard(None, history)).text


def test_many_causes_are_counted_where_they_are_not_shown() -> None:
    was, now = loop(SONNET, 1000, [10]), loop(SONNET, 2000, [10])
    listed = [
        scenario(f"t.py::test_{n:02}", "over", was, now, findings=[finding("growth", f"tools[{n}]", "grew")])
        for n in range(23)
    ]
    assert "And 3 more causes, of 3 scenarios" in Page(dashboard(document(listed), None)).text


def test_says_what_to_install_where_jinja_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "jinja2", None)
    with pytest.raises(ReportError, match=r'pip install "pytest-tokenbudget\[html\]"'):
        dashboard(document([]), None)


OURS = {
    "html", "head", "meta", "title", "link", "style", "body", "a", "header", "main", "section", "footer",
    "p", "h1", "h2", "h3", "ul", "ol", "li", "dl", "dt", "dd", "div", "span", "b", "em", "small", "code",
    "table", "caption", "thead", "tbody", "tfoot", "tr", "th", "td", "figure", "figcaption", "details",
    "summary", "label", "input", "button", "select", "option", "output", "script",
    "svg", "defs", "pattern", "g", "path", "rect", "text", "use",
}  # fmt: skip
ATTRIBUTES = {
    "lang", "charset", "http-equiv", "content", "name", "rel", "href", "class", "id", "hidden", "scope",
    "colspan", "data-sort", "data-value", "data-verdict", "data-encoding", "type", "placeholder",
    "autocomplete", "value", "role", "aria-label", "aria-labelledby", "aria-hidden", "width", "height",
    "viewbox", "preserveaspectratio", "patternunits", "fill", "fill-opacity", "stroke", "stroke-width",
    "stroke-linecap", "vector-effect", "shape-rendering", "overflow", "d", "x", "y", "transform",
    "text-anchor", "download",
}  # fmt: skip


@given(any_document(), st.lists(hostile, min_size=1, max_size=3))
@settings(max_examples=examples(40), suppress_health_check=list(HealthCheck))
def test_no_text_of_others_is_more_than_text(made: Document, texts: list[str]) -> None:
    history = history_of(made, len(texts))
    for commit, text in zip(history["commits"], texts, strict=True):
        commit.update({"commit": text, "date": text, "subject": text})
    source = dashboard(made, history)
    source.encode()
    page = Page(source)
    scripts = page.all("script")
    assert len(scripts) == 2
    assert json.loads(page.texts["script"][0]) == made
    for tag, attributes in page.elements:
        assert tag in OURS | {"title"}
        assert set(attributes) <= ATTRIBUTES
        assert attributes.get("href", "#").startswith(("#", "data:,"))
    printable = source.replace("\n", " ")
    assert all(character.isprintable() for character in printable)
