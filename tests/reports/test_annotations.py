"""GitHub's workflow commands: at most ten, on the right line, and nothing that ends a command early."""

from __future__ import annotations

import re
from typing import Any

from hypothesis import given

from pytest_tokenbudget.reports.exports import workflow_commands
from pytest_tokenbudget.reports.text import command_data, command_property
from support.documents import SONNET, document, finding, loop, scenario
from support.strategies import documents as any_document

COMMAND = re.compile(r"::error (?:file=([^:,]*),line=(\d+),)?title=[^:,]+::(.*)")


def test_golden(documents: Any, golden: Any) -> None:
    for name, made in documents.items():
        golden(f"{name}-annotations.txt", "".join(f"{line}\n" for line in workflow_commands(made)))


def test_the_eleventh_cause_makes_the_tenth_line_a_count() -> None:
    was, now = loop(SONNET, 1000, [10]), loop(SONNET, 2000, [10])

    def lines(number: int) -> list[str]:
        causes = [finding("growth", f"system[{n}]", "it grew") for n in range(number)]
        listed = [
            scenario(f"test_{n}.py::test", "over", was, now, findings=[causes[n]]) for n in range(number)
        ]
        return workflow_commands(document(listed))

    assert len(lines(10)) == 10
    assert all("file=test_" in line for line in lines(10))
    assert len(lines(11)) == 10
    assert lines(11)[-1].startswith("::error title=Token budget::2 more causes of failure")


def test_stands_on_the_first_known_line_else_on_the_test() -> None:
    was, now = loop(SONNET, 1000, [10]), loop(SONNET, 2000, [10])
    nowhere = finding("growth", "tools[0]", "it grew")
    placed = finding("growth", "system[0]", "it grew", at="prompts/a,b.md:3")
    one = scenario("tests/test_a.py::test", "over", was, now, line=7, findings=[nowhere, placed])
    two = scenario("tests/test_b.py::test", "over", was, now, line=9, findings=[nowhere])
    first, second = workflow_commands(document([one, two]))
    assert first.startswith("::error file=prompts/a%2Cb.md,line=3,title=Token budget%3A over::")
    assert second.startswith("::error file=tests/test_b.py,line=9,")


def test_escapes() -> None:
    assert command_data("50 %\r\n::error::x") == "50 %25%0D%0A::error::x"
    assert command_property("a:b,c%\n") == "a%3Ab%2Cc%25%0A"


@given(any_document())
def test_no_text_ends_a_command_or_begins_another(made: Any) -> None:
    lines = workflow_commands(made)
    assert len(lines) <= 10
    for line in lines:
        assert COMMAND.fullmatch(line)
        assert line.isprintable()
