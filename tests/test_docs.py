"""The docs quote messages as the code says them, and their links lead somewhere."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from pytest_tokenbudget.errors import TokenBudgetError

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
FENCED = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)


def messages(code: str) -> Iterator[str]:
    """Every text of a module; what is filled in is `…`."""
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.JoinedStr):
            yield "".join(part.value if isinstance(part, ast.Constant) else "…" for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


def quoted(page: Path) -> list[str]:
    return re.findall(r"^#+ `(.+)`$", page.read_text("utf-8"), re.MULTILINE)


def anchors(page: Path) -> set[str]:
    """Return the anchors that GitHub gives the headings of a page."""
    headings = re.findall(r"^#+ (.+)$", FENCED.sub("", page.read_text("utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_troubleshooting_quotes_what_the_code_says() -> None:
    modules = (ROOT / "pytest_tokenbudget").rglob("*.py")
    said = [text for module in modules for text in messages(module.read_text("utf-8"))]
    headings = quoted(ROOT / "docs" / "troubleshooting.md")
    assert len(headings) >= 25
    assert [heading for heading in headings if not any(heading in text for text in said)] == []


def test_every_error_names_a_heading_of_the_docs() -> None:
    kinds = TokenBudgetError.__subclasses__()
    assert len(kinds) >= 7
    for kind in kinds:
        name, _, anchor = kind.docs.partition("#")
        assert not anchor or anchor in anchors(ROOT / "docs" / name), kind
        assert kind("It is wrong.").more == f"More: docs/{kind.docs}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    text = FENCED.sub("", page.read_text("utf-8"))
    links = [link for link in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in link]
    dead = []
    for link in links:
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            dead.append(link)
    assert dead == []


def test_modules_that_are_named_exist() -> None:
    """A name without a folder may be that of any of our files."""
    ours = ("pytest_tokenbudget", "tests", "benchmarks", "example_project", "scripts")
    held = [
        f"/{path.relative_to(ROOT).as_posix()}" for folder in ours for path in (ROOT / folder).rglob("*.py")
    ]
    pages = (FENCED.sub("", page.read_text("utf-8")) for page in PAGES)
    named = {name for page in pages for name in re.findall(r"`([\w/]+\.py)`", page)}
    assert [name for name in named if not any(path.endswith(f"/{name}") for path in held)] == []
