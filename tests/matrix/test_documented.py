"""docs/compatibility.md shows the table of the tests: `pytest tests/matrix --rewrite-golden` writes it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.rows import GENERATIONS, SECTIONS, Row

PAGE = Path(__file__).parents[2] / "docs" / "compatibility.md"
TABLES = re.compile(r"(?<=<!-- tables: begin -->\n).*(?=<!-- tables: end -->)", re.S)


def tables() -> str:
    return "\n".join("\n".join(section(title, rows)) for title, rows in SECTIONS.items()) + "\n"


def section(title: str, rows: tuple[Row, ...]) -> Iterator[str]:
    yield from (f"### {title}", "")
    yield from table(rows) if any(row.sdks for row in rows) else (f"- {row.what}" for row in rows)
    yield ""


def table(rows: tuple[Row, ...]) -> Iterator[str]:
    """Generations of the SDK, and where it differs, what is billed."""
    prices = any(row.price != 1 for row in rows)
    columns = ["", *(f"SDK {name}" for name in GENERATIONS), *(("billed as", "price") if prices else ())]
    yield "| " + " | ".join(columns) + " |"
    yield "|" + " --- |" * len(columns)
    for row in rows:
        cells = [row.what, *("yes" if name in row.sdks else "-" for name in GENERATIONS)]
        cells += [f"`{row.rate}`", f"{row.price:g}"] if prices else []
        yield "| " + " | ".join(cells) + " |"


def test_the_page_shows_the_tables(request: pytest.FixtureRequest) -> None:
    text = PAGE.read_text("utf-8")
    if request.config.getoption("--rewrite-golden"):
        PAGE.write_text(TABLES.sub(lambda _: tables(), text), "utf-8")
        return
    shown = TABLES.search(text)
    assert shown is not None
    assert shown[0] == tables()
