"""The documents that every report is tried on, and the golden files they are held against."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from pytest_tokenbudget.reports.document import Document
from support.documents import all_green, many, one_of_each

GOLDEN = Path(__file__).parent / "golden"


@pytest.fixture(scope="session")
def documents() -> dict[str, Document]:
    return {"green": all_green(), "each": one_of_each(), "many": many()}


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Callable[[str, str], None]:
    """Hold a text against a golden file; `--rewrite-golden` writes it anew, to be read in the diff."""

    def check(name: str, text: str) -> None:
        path = GOLDEN / name
        if request.config.getoption("--rewrite-golden"):
            path.write_text(text, encoding="utf-8", newline="\n")
        assert path.exists(), f"{name} is missing; write it with --rewrite-golden"
        assert text == path.read_text(encoding="utf-8")

    return check
