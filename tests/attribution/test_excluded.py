"""What the suite leaves out of judging: named, counted, and run as without the flag."""

from __future__ import annotations

import jsonschema
import pytest

from pytest_tokenbudget.reports.document import schema
from support.budgeted import Judged
from support.scratch_suites import Suite, settings

PDFS = """
import pytest
from agent import ask


@pytest.mark.token_budget
@pytest.mark.parametrize("page", ["a", "b[1]"])
def test_pdf(page):
    assert ask("One") == "You said One"


@pytest.mark.token_budget
def test_pdf_two():
    assert ask("Two") == "You said Two"


@pytest.mark.token_budget(exclude="asks for the weather")
def test_weather():
    assert ask("One") == "You said One"


def test_plain():
    pass
"""
LONGER = " Say so in full sentences, and never promise a date of delivery to anybody." * 3


def the_line(judged: Judged) -> str:
    line = judged.words.partition("token budgets: ")[2]
    return "token budgets: " + line.partition(" ====")[0]


def test_what_is_excluded_is_not_judged_and_is_told(suite: Suite, monkeypatch: pytest.MonkeyPatch) -> None:
    project = suite(PDFS, 4)
    monkeypatch.setenv("MORE", LONGER)
    settings(project, 'exclude = ["test_it.py::test_pdf"]')
    judged = project.judge("-rA")
    assert list(judged.scenarios) == ["test_pdf_two"]
    assert judged.verdicts == {"over"}
    assert judged.document["excluded"] == [
        {"id": "test_it.py::test_pdf[a]", "why": 'exclude = ["test_it.py::test_pdf"]'},
        {"id": "test_it.py::test_pdf[b[1]]", "why": 'exclude = ["test_it.py::test_pdf"]'},
        {"id": "test_it.py::test_weather", "why": "asks for the weather"},
    ]
    assert judged.document["not_judged"] == []
    assert the_line(judged).startswith("token budgets: 1 over; ")
    assert the_line(judged).endswith("; 3 excluded")
    assert "; 3 excluded" in judged.words
    assert "4 passed" in judged.output
    jsonschema.Draft202012Validator(schema()).validate(judged.document)
    assert project.judge("-n", "2").document == judged.document


def test_an_excluded_test_still_replays_and_keeps_its_baseline(
    suite: Suite, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = suite(PDFS, 4)
    baselines = project.path / "token_budgets" / "test_it.yaml"
    settings(project, 'exclude = ["test_it.py"]')
    before = baselines.read_text("utf-8")
    monkeypatch.setenv("MORE", LONGER)
    judged = project.judge("--token-budget-update")
    assert (judged.status, judged.document["scenarios"]) == (0, [])
    assert baselines.read_text("utf-8") == before
    assert the_line(judged) == "token budgets: 0 scenarios; 5 excluded"
    (project.path / "cassettes" / "test_it" / "test_weather.yaml").unlink()
    judged = project.judge("-k", "weather")  # it has no answer, as without the flag
    assert judged.status == 1
    assert judged.document["scenarios"] == []


@pytest.mark.parametrize(
    ("pattern", "arguments", "warns"),
    [
        ("test_it.py::test_pdf[c]", (), True),
        ("test_that.py", ("test_it.py",), True),
        ("*::test_letter", (), True),
        ("test_it.py::test_pdf*", (), False),
        ("test_it.py::test_letter", ("test_it.py::test_pdf_two",), False),
        ("test_it.py::test_pdf", ("-k", "two"), False),
    ],
)
def test_a_pattern_that_matches_nothing_is_a_warning(
    suite: Suite, pattern: str, arguments: tuple[str, ...], warns: bool
) -> None:
    project = suite(PDFS, 4)
    settings(project, f'exclude = ["{pattern}"]')
    judged = project.judge(*arguments)
    assert judged.status == 0
    assert (f'exclude: "{pattern}" matches no test' in judged.output) is warns
    assert ("TokenBudgetWarning" in judged.output) is warns


def test_a_reason_is_asked_for(suite: Suite) -> None:
    project = suite(PDFS, 4)
    test = project.path / "test_it.py"
    test.write_text(test.read_text("utf-8").replace('"asks for the weather"', "True"), "utf-8")
    judged = project.judge("-k", "weather")
    assert judged.status == 1
    assert "exclude is True; write why, such as" in judged.output


def test_what_nothing_answers_is_skipped_without_a_key(suite: Suite) -> None:
    """It fails by itself, judged or not: to exclude it resolves nothing."""
    project = suite(PDFS, 4)
    test = project.path / "test_it.py"
    test.write_text(test.read_text("utf-8").replace('ask("Two")', 'ask("Two") and ask("Two")'), "utf-8")
    judged = project.judge("-k", "two")
    assert judged.status == 1
    assert "let somebody who has one record it, or skip the test until then" in judged.words
    assert "exclude = " not in judged.output
    skipped = "def test_pdf_two():", '@pytest.mark.skip(reason="no key")\ndef test_pdf_two():'
    test.write_text(test.read_text("utf-8").replace(*skipped), "utf-8")
    judged = project.judge("-k", "two")
    assert judged.status == 0, judged.output
    assert the_line(judged).endswith("0 scenarios; 1 not judged")


def test_a_fixture_of_excluded_tests_alone_is_not_judged(suite: Suite) -> None:
    text = (
        "import pytest\nfrom agent import ask\n\n\n"
        '@pytest.fixture(scope="module")\ndef known():\n    return ask("One")\n\n\n'
        "@pytest.mark.token_budget\ndef test_it(known):\n    assert known\n"
    )
    project = suite(text, 1)
    settings(project, 'exclude = ["test_it.py::test_it"]')
    judged = project.judge()
    assert (judged.status, judged.document["scenarios"]) == (0, [])
