"""The dashboard in a real Chromium: what a person, a keyboard, a phone and a strict policy make of it."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest

from pytest_tokenbudget.reports.dashboard import dashboard
from support.browser import Browser, Page, browser, executable
from support.documents import HAIKU, SONNET, all_green, document, loop, many, one_of_each, scenario
from support.histories import history_of, with_gaps

pytestmark = [
    pytest.mark.whole_run,
    pytest.mark.newest,
    pytest.mark.skipif(executable() is None, reason="needs Chromium or Chrome on PATH"),
]

NAMES = ("each", "green", "history", "many")
ENTER = 13, "\r"


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with browser(tmp_path_factory.mktemp("profile")) as running:
        yield running


@pytest.fixture(scope="module")
def addresses(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Where the pages are, on disk."""
    each, every, folder = one_of_each(), many(), tmp_path_factory.mktemp("pages")
    pages = {
        "each": dashboard(each, history_of(each), runs_per_month=30_000),
        "green": dashboard(all_green(), None),
        "history": dashboard(None, with_gaps()),
        "many": dashboard(every, history_of(every, 100)),
    }
    pages["blocked"] = re.sub(
        r"(style|script)-src &#39;sha256-[^&]*&#39;", r"\1-src &#39;none&#39;", pages["each"]
    )
    for name, text in pages.items():
        (folder / f"{name}.html").write_text(text, encoding="utf-8", newline="\n")
    return {name: (folder / f"{name}.html").as_uri() for name in pages}


def names(page: Page) -> list[str]:
    """The scenarios that are shown, in their order."""
    shown: list[str] = page.evaluate(
        "[...document.querySelectorAll('.scenarios > tbody')].filter(one => one.checkVisibility())"
        ".map(one => one.querySelector('summary').textContent)"
    )
    return shown


def column(page: Page, title: str) -> list[str]:
    """The cells below a header, in the order that is shown."""
    cells: list[str] = page.evaluate(
        f"""(() => {{
            const table = document.getElementById("table");
            const titles = [...table.tHead.rows[0].cells].map(one => one.textContent);
            const place = titles.indexOf({json.dumps(title)});
            return [...table.tBodies].map(one => one.rows[0].cells[place].textContent);
        }})()"""
    )
    return cells


def focus(page: Page, selector: str) -> None:
    page.evaluate(f"document.querySelector({json.dumps(selector)}).focus()")


def pictures(page: Page) -> list[dict[str, Any]]:
    """Every picture that is shown: its words and its size."""
    listed: list[dict[str, Any]] = page.evaluate(
        "[...document.querySelectorAll('svg[role=img]')].filter(one => one.checkVisibility()).map(one => {"
        " const {width, height} = one.getBoundingClientRect();"
        " return {label: one.ariaLabel ?? one.getAttribute('aria-label'), width, height}; })"
    )
    return listed


@pytest.mark.parametrize("name", NAMES)
def test_no_complaint_and_no_request_but_the_page_itself(
    chromium: Browser, addresses: dict[str, str], name: str
) -> None:
    with chromium.page(addresses[name]) as page:
        page.evaluate("document.querySelectorAll('.scenarios details').forEach(one => one.open = true)")
        assert page.complaints() == []
        assert page.requests() == [addresses[name]]


def test_a_complaint_would_be_heard(chromium: Browser, addresses: dict[str, str]) -> None:
    """The counter-check: the same page under a policy that allows it nothing."""
    with chromium.page(addresses["blocked"]) as page:
        assert len([text for text in page.complaints() if "Content Security Policy" in text]) == 2
        assert page.evaluate("getComputedStyle(document.body).maxWidth") == "none"


@pytest.mark.parametrize("scripts", [True, False])
def test_the_pictures_need_no_script(chromium: Browser, addresses: dict[str, str], scripts: bool) -> None:
    with chromium.page(addresses["each"], scripts=scripts) as page:
        ran = page.evaluate("document.querySelector('.scenarios').classList.contains('scripted')")
        assert ran is scripts
        page.evaluate("document.querySelectorAll('.scenarios details').forEach(one => one.open = true)")
        shown = pictures(page)
        assert all(one["width"] > 20 and one["height"] > 10 and one["label"] for one in shown)
        # 2 bars of the suite, 3 of its charts, 4 models; of 15 scenarios 15 of turns, 13 trends, twice
        assert len(shown) == 2 + 3 + 4 + 15 + 13 * 2
        assert len(names(page)) == 15
        assert page.evaluate("document.querySelector('.controls').checkVisibility()") is scripts


def test_the_pictures_are_the_same_without_scripts(chromium: Browser, addresses: dict[str, str]) -> None:
    seen = []
    for scripts in (True, False):
        with chromium.page(addresses["each"], scripts=scripts) as page:
            place = page.evaluate(
                "(({x, y, width, height}) => ({x, y: y + scrollY, width, height, scale: 1}))"
                "(document.querySelector('.figures').getBoundingClientRect())"
            )
            seen.append(page.screenshot(place))
            colours = page.colours(seen[-1])
    assert seen[0] == seen[1]
    assert colours > 20, "a picture has lines, areas and words"


def test_the_pictures_are_there_where_styles_and_scripts_are_blocked(
    chromium: Browser, addresses: dict[str, str]
) -> None:
    """As some CI servers show artifacts."""
    with chromium.page(addresses["blocked"]) as page:
        assert len(pictures(page)) == 2 + 3 + 4 + 15 + 13 * 2, "all, for nothing is folded without a style"
        fills = page.evaluate(
            "[...document.querySelectorAll('.figures path')].map(one => getComputedStyle(one).fill)"
        )
        assert {"rgb(169, 201, 234)", "rgb(47, 111, 179)", "rgb(22, 50, 79)"} <= set(fills)
        assert any("written" in fill for fill in fills)


@pytest.mark.parametrize(
    ("title", "number", "width"),
    [
        ("Prompt tokens", r"[\d,]+", 1280),
        ("Cost a run", r"[\d.]+", 390),
        ("Cache share", r"[\d.]+", 1280),
        ("Cost change", r"−?\+?\$[\d.]+", 1280),
    ],
)
def test_sorts_by_numbers_with_the_keyboard(
    chromium: Browser, addresses: dict[str, str], title: str, number: str, width: int
) -> None:
    with chromium.page(addresses["each"], width=width) as page:
        place = page.evaluate(
            "[...document.getElementById('table').tHead.rows[0].cells]"
            f".findIndex(one => one.textContent === {json.dumps(title)})"
        )
        header = f".scenarios > thead th:nth-child({place + 1})"
        for direction in ("descending", "ascending"):
            focus(page, f"{header} button")
            page.press("Enter", *ENTER)
            assert page.evaluate(f"document.querySelector('{header}').getAttribute('aria-sort')") == direction
            cells = column(page, title)
            found = [re.search(number, cell) for cell in cells]
            values = [as_number(one[0]) for one in found if one]
            assert len(values) >= 11
            assert values == sorted(values, reverse=direction == "descending")
            last = [one is None for one in found]
            assert last == sorted(last), "what has no number comes last, whichever way"
        assert page.evaluate("document.querySelectorAll('[aria-sort]').length") == 1


def as_number(text: str) -> float:
    return float(text.replace(",", "").replace("$", "").replace("−", "-"))


def test_sorts_by_name_and_by_verdict(chromium: Browser, addresses: dict[str, str]) -> None:
    with chromium.page(addresses["each"]) as page:
        page.evaluate("document.querySelector('.scenarios > thead button').click()")
        assert names(page) == sorted(names(page))
        page.evaluate("document.querySelectorAll('.scenarios > thead button')[1].click()")
        order = ["over"] * 5 + ["stale"] + ["new"] * 2 + ["improved"] + ["within"] * 6
        assert column(page, "Verdict") == order


@pytest.mark.parametrize("width", [1280, 390])
def test_filters_by_words_and_by_verdict(chromium: Browser, addresses: dict[str, str], width: int) -> None:
    with chromium.page(addresses["each"], width=width) as page:
        focus(page, "#filter")
        page.write("support REFUND")
        assert names(page) == ["test_support.py::test_refund[gold|eu]"]
        assert page.evaluate("document.getElementById('shown').textContent") == "1 of 15 shown"
        page.evaluate("document.getElementById('filter').value = ''")
        page.write("no file of the repository holds either")
        assert names(page) == ["test_support.py::test_angry_customer"], "causes are looked through as well"
        page.evaluate("document.getElementById('filter').value = ''")
        page.evaluate("document.querySelector('a[data-verdict=new]').click()")
        assert names(page) == [
            "test_escalation.py::test_hands_over_to_human",
            "conftest.py::fixture warm_agent [session]",
        ]
        page.evaluate(
            "(one => { one.value = 'over stale unknown unrecorded new';"
            " one.dispatchEvent(new Event('change')); })"
            "(document.getElementById('verdict'))"
        )
        assert page.evaluate("document.getElementById('shown').textContent") == "8 of 15 shown"


def test_what_is_shown_is_kept_in_the_address(chromium: Browser, addresses: dict[str, str]) -> None:
    with chromium.page(addresses["each"]) as page:
        page.evaluate("document.querySelectorAll('.scenarios > thead button')[2].click()")
        focus(page, "#filter")
        page.write("support | &=%")
        assert page.evaluate("document.getElementById('shown').textContent") == "No scenario matches."
        address = page.evaluate("location.href")
        page.evaluate("document.getElementById('reset').click()")
        assert len(names(page)) == 15
        assert page.evaluate("document.getElementById('reset').checkVisibility()") is False
    with chromium.page(address) as page:
        assert page.evaluate("document.getElementById('filter').value") == "support | &=%"
        assert names(page) == []
        assert (
            page.evaluate("document.querySelector('[aria-sort=descending]').textContent") == "Prompt tokens"
        )
        assert page.complaints() == []


def test_the_table_as_csv_is_what_is_shown(chromium: Browser, addresses: dict[str, str]) -> None:
    with chromium.page(addresses["each"]) as page:
        focus(page, "#filter")
        page.write("triage")
        page.evaluate(
            "(link => { link.addEventListener('click', event => event.preventDefault()); link.click(); })"
            "(document.getElementById('csv'))"
        )
        kind, _, text = unquote(page.evaluate("document.getElementById('csv').href")).partition(",")
        assert kind == "data:text/csv;charset=utf-8"
        rows = list(csv.DictReader(text.splitlines()))
        assert [row["Scenario"] for row in rows] == names(page)
        assert {f"{float(row['Prompt tokens']):,.0f}" for row in rows} <= set(column(page, "Prompt tokens"))
        assert not [value for row in rows for value in row.values() if value.startswith(("=", "+", "@"))]


def test_a_link_to_a_scenario_opens_it_though_it_is_filtered_out(
    chromium: Browser, addresses: dict[str, str]
) -> None:
    with chromium.page(addresses["each"]) as page:
        focus(page, "#filter")
        page.write("triage")
        assert len(names(page)) == 5
        page.evaluate("document.querySelector('.failing a').click()")
        page.until("/^#s\\d+$/.test(location.hash)")
        target = "document.querySelector(location.hash)"
        page.until(f"{target}.querySelector('.more').checkVisibility()")
        page.until(f"(top => -1 < top && top < 900)({target}.getBoundingClientRect().top)")
        assert len(names(page)) == 15


@pytest.mark.parametrize("scripts", [True, False])
def test_unfolds_with_the_keyboard(chromium: Browser, addresses: dict[str, str], scripts: bool) -> None:
    with chromium.page(addresses["each"], scripts=scripts) as page:
        more = "document.querySelector('.scenarios .more').checkVisibility()"
        assert page.evaluate(more) is False
        focus(page, ".scenarios summary")
        page.press("Enter", *ENTER)
        page.until(more)
        page.press("Enter", *ENTER)
        page.until(f"!{more}")


@pytest.mark.parametrize("name", NAMES)
def test_nothing_is_wider_than_the_window(chromium: Browser, addresses: dict[str, str], name: str) -> None:
    with chromium.page(addresses[name]) as page:
        if name != "many":
            page.evaluate("document.querySelectorAll('.scenarios details').forEach(one => one.open = true)")
        for width in (390, 768, 1080, 1280):
            page.resize(width, 900)
            assert page.evaluate("[innerWidth, document.documentElement.scrollWidth <= innerWidth]") == [
                width,
                True,
            ]


@pytest.mark.parametrize("name", ["each", "history"])
def test_a_screen_reader_hears_what_everything_is(
    chromium: Browser, addresses: dict[str, str], name: str
) -> None:
    named = {"image", "link", "button", "searchbox", "columnheader", "rowheader", "table", "region"}
    with chromium.page(addresses[name]) as page:
        page.evaluate("document.querySelectorAll('.scenarios details').forEach(one => one.open = true)")
        nodes = [one for one in page.send("Accessibility.getFullAXTree")["nodes"] if not one["ignored"]]
    roles = [one["role"]["value"] for one in nodes]
    silent = [one["role"]["value"] for one in nodes if not one.get("name", {}).get("value")]
    assert named <= set(roles)
    assert not (named | {"combobox"}) & set(silent)


@pytest.mark.parametrize("width", [390, 900, 1280])
def test_a_table_of_turns_stays_in_its_panel(chromium: Browser, tmp_path: Path, width: int) -> None:
    """Of two models, three ways to pair and six digits: as wide as real ones get; then of any length."""
    for model in (HAIKU, "arn:aws:bedrock:eu-west-1:123456789012:inference_profile/" + "x" * 200):
        was = [*loop(model, 620, [20]), *loop(SONNET, 118_400, [160, 140])]
        now = [*loop(model, 620, [20]), *loop(SONNET, 128_400, [160, 140])]
        pairs = ["exact", "lineage", "similar"]
        one = scenario("tests/test_a.py::test_a", "over", was, now, basis="counted", paired=pairs)
        path = tmp_path / "page.html"
        path.write_text(dashboard(document([one]), None), encoding="utf-8")
        with chromium.page(path.as_uri(), width=width) as page:
            page.evaluate("document.querySelector('.scenarios details').open = true")
            panel = "document.querySelector('.panels > div:last-child')"
            assert page.evaluate(f"{panel}.getBoundingClientRect().right") <= width
            assert page.evaluate("document.documentElement.scrollWidth") <= width
            if model == HAIKU and width > 390:
                assert page.evaluate(f"{panel}.scrollWidth <= {panel}.clientWidth")


def test_a_phone_shows_every_cell_with_its_name(chromium: Browser, addresses: dict[str, str]) -> None:
    with chromium.page(addresses["each"], width=390) as page:
        shown = page.evaluate(
            "[...document.querySelector('.scenarios > tbody').rows[0].cells].slice(1)"
            ".map(one => [getComputedStyle(one, '::before').content, one.checkVisibility()])"
        )
        titles = page.evaluate(
            "[...document.getElementById('table').tHead.rows[0].cells].slice(1).map(one => one.textContent)"
        )
        assert shown == [[json.dumps(title), True] for title in titles]


def test_assistive_technology_is_told_names_and_headers(chromium: Browser, addresses: dict[str, str]) -> None:
    with chromium.page(addresses["each"]) as page:
        page.send("Accessibility.enable")
        nodes = [one for one in page.send("Accessibility.getFullAXTree")["nodes"] if not one["ignored"]]
        roles: dict[str, list[str]] = {}
        for one in nodes:
            roles.setdefault(one["role"]["value"], []).append(one.get("name", {}).get("value", ""))
        for role in (
            "image",
            "link",
            "button",
            "searchbox",
            "combobox",
            "columnheader",
            "rowheader",
            "table",
        ):
            assert roles[role], role
            if role != "table":
                assert all(name.strip() for name in roles[role]), f"a {role} without a name"
        assert {"The suite", "What needs a decision", "Scenarios"} <= set(roles["heading"])


CONTRASTS = """(() => {
  const canvas = new OffscreenCanvas(1, 1).getContext("2d", {willReadFrequently: true});
  const rgb = (colour, below) => {
    canvas.globalCompositeOperation = "copy"; canvas.fillStyle = below; canvas.fillRect(0, 0, 1, 1);
    canvas.globalCompositeOperation = "source-over"; canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3);
  };
  const light = ([r, g, b]) => [r, g, b].map(c => c / 255)
    .map(c => c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
    .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
  const found = {};
  for (const one of document.querySelectorAll("body *")) {
    if (!one.checkVisibility() || one.closest("svg")) continue;
    if (![...one.childNodes].some(n => n.nodeType === 3 && n.data.trim())) continue;
    let paper = one, below = "white";
    const papers = [];
    for (; paper; paper = paper.parentElement) papers.unshift(getComputedStyle(paper).backgroundColor);
    for (const each of papers) below = `rgb(${rgb(each, below)})`;
    const a = light(rgb(below, "white")), b = light(rgb(getComputedStyle(one).color, below));
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    const key = one.tagName + "." + one.className;
    found[key] = Math.min(found[key] ?? 99, ratio);
  }
  return found;
})()"""


@pytest.mark.parametrize("dark", [False, True])
def test_words_stand_out_from_their_paper(chromium: Browser, addresses: dict[str, str], dark: bool) -> None:
    """WCAG 2.2 AA asks for 4.5 : 1."""
    with chromium.page(addresses["each"], dark=dark) as page:
        page.evaluate("document.querySelectorAll('.scenarios details').forEach(one => one.open = true)")
        found = page.evaluate(CONTRASTS)
        assert len(found) > 20
        assert {name: ratio for name, ratio in found.items() if ratio < 4.5} == {}
        paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert paper == ("rgb(20, 23, 27)" if dark else "rgb(246, 247, 249)")


def test_prints_in_light_colours_without_its_controls(chromium: Browser, addresses: dict[str, str]) -> None:
    with chromium.page(addresses["each"], dark=True) as page:
        page.send("Emulation.setEmulatedMedia", media="print", features=page.scheme(dark=True))
        assert page.evaluate("document.querySelector('.controls').checkVisibility()") is False
        assert page.evaluate("getComputedStyle(document.querySelector('h1')).color") == "rgb(28, 35, 43)"
        assert page.pdf().startswith(b"%PDF")


@pytest.mark.parametrize("width", [1280, 390])
def test_there_is_something_to_see(chromium: Browser, addresses: dict[str, str], width: int) -> None:
    """The pictures of the docs are made by `make screenshots`, and looked at."""
    with chromium.page(addresses["each"], width=width) as page:
        page.evaluate("document.querySelectorAll('.scenarios details')[2].open = true")
        picture = page.screenshot({"x": 0, "y": 0, "width": width, "height": 2300, "scale": 1})
        assert page.colours(picture) > 50
