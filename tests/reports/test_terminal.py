"""The terminal's section and the failure text: golden files, silence, colours, and no line too wide."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_tokenbudget.model import Rate, Tokens, Usage
from pytest_tokenbudget.reports import scenario_view
from pytest_tokenbudget.reports.terminal import acceptances, failure_text, summary, summary_lines
from pytest_tokenbudget.reports.text import to_ascii, width
from pytest_tokenbudget.run.reporting import FailureText
from support.documents import HAIKU, SONNET, finding, loop, scenario
from support.documents import document as made
from support.strategies import documents as any_document


@pytest.mark.parametrize(
    ("name", "columns", "verbosity", "ascii_only"),
    [
        ("green", 80, 1, False),
        ("each", 80, 0, False),
        ("each", 120, 0, False),
        ("each", 80, -1, False),
        ("each", 80, 1, False),
        ("each", 80, 0, True),
        ("each", 60, 0, False),
        ("many", 80, 0, False),
        ("many", 120, -1, False),
    ],
)
def test_golden(
    documents: Any, golden: Any, name: str, columns: int, verbosity: int, ascii_only: bool
) -> None:
    lines = summary_lines(documents[name], columns=columns, verbosity=verbosity, ascii_only=ascii_only)
    form = {-1: "quiet", 0: "plain", 1: "verbose"}[verbosity] + ("-ascii" if ascii_only else "")
    text = "".join(f"{line.style:7}|{line.text}\n" for line in lines)
    golden(f"{name}-{columns}-{form}.txt", text)


def test_failure_texts(documents: Any, golden: Any) -> None:
    failing = [
        one for one in scenario_view.worst_first(documents["each"]["scenarios"]) if scenario_view.fails(one)
    ]
    texts = [failure_text(one) for one in failing]
    assert all(2 <= len(text.splitlines()) <= 6 for text in texts)
    assert {text.split(":")[0] for text in texts} == {"Over budget", "Stale", "New"}
    golden("failures.txt", "\n\n".join(texts) + "\n")


def test_silent_when_there_is_nothing_to_say(documents: Any) -> None:
    assert summary_lines(documents["green"]) == []
    assert summary_lines(documents["green"], verbosity=-1) == []
    assert summary_lines(made([]), verbosity=2) == []


def test_one_line_a_scenario_when_asked(documents: Any) -> None:
    lines = summary_lines(documents["green"], columns=120, verbosity=1)
    assert len([line for line in lines if "test_" in line.text]) == 14


def test_writes_colours_as_markup_only(documents: Any) -> None:
    written: list[tuple[str, dict[str, bool]]] = []
    summary(documents["each"], lambda line, **markup: written.append((line, markup)), columns=100)
    assert {name for _, markup in written for name in markup} == {"red", "yellow", "green", "bold"}
    assert all(text.isprintable() for text, _ in written)
    unpriced = next(markup for text, markup in written if "test_three_researchers" in text)
    assert unpriced == {"red": True}


@given(any_document(), st.integers(1, 200), st.sampled_from([-1, 0, 1, 2]), st.booleans())
def test_no_line_is_too_wide_or_unprintable(
    document: Any, columns: int, verbosity: int, ascii_only: bool
) -> None:
    for line in summary_lines(document, columns=columns, verbosity=verbosity, ascii_only=ascii_only):
        assert width(line.text) <= max(columns, 40) or line.is_command
        assert line.text.isprintable()
        assert line.text.isascii() or not ascii_only


@given(any_document())
def test_failure_texts_are_printable(document: Any) -> None:
    for one in document["scenarios"]:
        if scenario_view.fails(one):
            text = failure_text(one)
            assert all(line.isprintable() for line in text.split("\n"))
            assert to_ascii(text).isascii()


def test_a_command_stands_whole_on_a_line_of_its_own() -> None:
    one = scenario("tests/test_a_long_name.py::test_one[a|b]", "new", None, loop(SONNET, 10, [1]))
    lines = [line.text for line in summary_lines(made([one]), columns=60)]
    assert lines[-2:] == [
        "Write the first baseline:",
        "  pytest --token-budget --token-budget-update 'tests/test_a_long_name.py::test_one[a|b]'",
    ]


def test_the_name_of_a_model_gives_way_to_the_numbers() -> None:
    arn = "arn:aws:bedrock:eu-west-1:123456789012:inference-profile/eu.anthropic.claude-sonnet-5-v1:0"
    was = [*loop(arn, 1000, [10]), *loop(HAIKU, 600, [20])]
    now = [*loop(arn, 1600, [10]), *loop(HAIKU, 600, [20])]
    one = scenario("tests/test_a.py::test_a", "over", was, now, basis="counted")
    lines = [line.text for line in summary_lines(made([one]), columns=80, verbosity=1)]
    assert [line.split() for line in lines if "claude" in line] == [
        ["1", "arn:aws:b…claude-sonnet-5-v1:0", "1,660", "0", "10", "1,060", "+600"],
        ["2", "claude-haiku-4-5", "660", "0", "20", "660", "0"],
    ]


def test_one_cause_is_told_once() -> None:
    grown = finding("growth", "system[0]", "system[0] grew", at="prompts/a.md:3")
    one, two = loop(SONNET, 1000, [10]), loop(SONNET, 2000, [10])
    all_over = [scenario(f"tests/test_a.py::test_{n}", "over", one, two, findings=[grown]) for n in range(15)]
    text = "\n".join(line.text for line in summary_lines(made(all_over)))
    assert text.count("system[0] grew") == 1
    assert "  12 more like it: -v shows them all" in text
    assert "in 15 scenarios together" in text
    quiet = [line.text for line in summary_lines(made(all_over), verbosity=-1)]
    assert "  over in prompt tokens and cost: test_0, test_1, test_10 and 12 more" in quiet
    assert len(quiet) == 7
    text = "\n".join(line.text for line in summary_lines(made(all_over), verbosity=1))
    assert text.count("system[0] grew") == 15, "above for the first, in their own words for the others"
    alone = [line.text for line in summary_lines(made(all_over[:1]), verbosity=1)]
    assert len([line for line in alone if "system[0] grew" in line]) == 1
    assert "more like it" not in text
    lines = [line.text for line in summary_lines(made(all_over[:12]))]
    assert len([line for line in lines if line.startswith("test_")]) == 12, "a dozen rows are not too many"


def test_many_causes_are_cut_and_counted() -> None:
    one, two = loop(SONNET, 1000, [10]), loop(SONNET, 2000, [10])
    causes = [finding("growth", f"system[{n}]", "it grew") for n in range(30)]
    all_over = [
        scenario(f"tests/test_a.py::test_{n}", "over", one, two, findings=[cause])
        for n, cause in enumerate(causes)
    ]
    lines = [line.text for line in summary_lines(made(all_over))]
    assert "and 10 more: -v shows them all" in lines
    assert "and 20 more causes: -v shows them all" in lines
    assert len([line for line in lines if line.startswith("  * it grew")]) == 10


def test_many_causes_of_one_change_are_counted_where_they_are_not_shown() -> None:
    one, two = loop(SONNET, 1000, [10]), loop(SONNET, 2000, [10])
    causes = [finding("growth", f"messages[{n}] user text", f"shot {n}", at="agent.py:3") for n in range(5)]
    made_of_five = made([scenario("tests/test_a.py::test_it", "over", one, two, findings=causes)])
    lines = [line.text for line in summary_lines(made_of_five)]
    assert [line for line in lines if line.startswith("  * ")][-1] == "  * and 2 more: -v shows them all"
    assert "-v shows" not in "".join(line.text for line in summary_lines(made_of_five, verbosity=1))


def monthly(name: str, more: int, runs: int | None, *findings: Any) -> Any:
    was, now = loop(SONNET, 9000, [10]), loop(SONNET, 9000 + more, [10])
    return {**scenario(name, "over", was, now, findings=findings), "runs_per_month": runs}


def titles(*scenarios: Any) -> list[str]:
    return [
        line.text for line in summary_lines(made(scenarios)) if line.style == "red" and ": the" in line.text
    ]


def test_changes_stand_in_the_order_of_what_they_cost_a_month() -> None:
    rare = finding("growth", "system[0]", "it grew", tokens=900, cost=0.09, at="rare.md:1")
    often = finding("growth", "tools[a].description", "it grew", tokens=100, cost=0.01, at="often.py:2")
    both = [
        monthly("tests/test_a.py::test_a", 900, 2, rare),
        monthly("tests/test_a.py::test_b", 100, 900, often),
    ]
    rare_told, often_told = (
        "rare.md:1: the system prompt (system[0])",
        "often.py:2: the description of a tool",
    )
    assert titles(*both) == [f"{often_told} (tools[a].description)", rare_told]
    assert "  +100 prompt tokens, +$0.0100 a run, +$9.00 a month, in 1 scenario" in [
        line.text for line in summary_lines(made(both))
    ]
    assert titles({**both[0], "runs_per_month": None}, both[1])[0] == rare_told


def test_what_is_a_rounding_or_touches_nothing_that_fails_does_not_stand_in_a_failing_report() -> None:
    grown = finding("growth", "system[0]", "it grew", tokens=900, cost=0.09, at="a.md:1")
    rounding = finding("growth", "tools[a].description", "a hair", tokens=-1, cost=-1e-9, at="b.py:2")
    other = finding("growth", "messages[0]", "elsewhere", tokens=5, cost=0.001, at="c.py:3")
    lever = finding("lever_routing", "run", "another model would do")
    over = monthly("tests/test_a.py::test_a", 900, None, grown, rounding, lever)
    passing = {**monthly("tests/test_a.py::test_b", 5, None, other), "verdict": "within"}
    text = "\n".join(line.text for line in summary_lines(made([over, passing])))
    assert "a hair" not in text
    assert "elsewhere" not in text
    assert "another model" not in text
    alone = monthly("tests/test_a.py::test_a", 0, None, rounding)
    assert "a hair" in "\n".join(line.text for line in summary_lines(made([alone]))), "all there is to say"


def test_the_text_of_a_failure_is_as_wide_as_the_terminal_and_leaves_the_commands_to_the_section() -> None:

    class Writer:
        fullwidth = 30
        lines: list[str] = []  # noqa: RUF012

        def line(self, text: str) -> None:
            self.lines.append(text)

    one = scenario("tests/test_a.py::test_a", "over", loop(SONNET, 10, [1]), loop(SONNET, 90, [1]))
    (way_out,) = map(str, scenario_view.ways_out([one]))
    told = FailureText(
        f"Over\n  a sentence that is wider than it\n  * one of several, wider than it\n{way_out}", [one]
    )
    assert way_out in str(told), "JUnit has it"
    told.toterminal(Writer())
    assert Writer.lines == [
        "Over",
        "  a sentence that is wider",
        "  than it",
        "  * one of several, wider than",
        "    it",
    ]


def test_a_failure_has_the_place_of_its_test_as_pytests_own_have() -> None:
    """Plugins read it, such as pytest-json-report."""
    one = scenario("tests/test_a.py::test_a", "over", loop(SONNET, 10, [1]), loop(SONNET, 90, [1]))
    crash = FailureText("Over\n", [one]).reprcrash
    assert (crash.path, crash.lineno, crash.message) == ("tests/test_a.py", one["line"], "Over")


def test_scenarios_that_fail_for_two_changes_are_named_once() -> None:
    first = finding("growth", "system[0]", "it grew", tokens=900, cost=0.09, at="a.md:1")
    second = finding("growth", "tools[a].description", "it grew", tokens=90, cost=0.009, at="b.py:2")
    third = finding("growth", "messages[0]", "it grew", tokens=9, cost=0.0009, at="c.py:3")
    both = [monthly(f"tests/test_a.py::test_{name}", 900, None, first, second) for name in "ab"]
    other = monthly("tests/test_a.py::test_c", 900, None, third)
    lines = [line.text.strip() for line in summary_lines(made([*both, other]), verbosity=-1)]
    assert [line for line in lines if line.startswith("over")] == [
        "over in prompt tokens and cost: test_a, test_b",
        "over: the same 2 scenarios",
        "over in prompt tokens and cost: test_c",
    ]


def test_a_saving_beside_what_fails_is_not_said_to_be_over() -> None:
    grew = finding("growth", "system[0]", "it grew", tokens=900, cost=0.09, at="a.md:1")
    shrank = finding("growth", "system[0]", "it shrank", tokens=-90, cost=-0.009)
    both = [monthly(f"tests/test_a.py::test_{name}", 810, None, grew, shrank) for name in "ab"]
    lines = [line.text.strip() for line in summary_lines(made(both), verbosity=-1)]
    assert "* test_a: it shrank" in lines
    assert len([line for line in lines if line.startswith("over")]) == 1


def test_an_acceptance_names_every_cause() -> None:
    """One cause says its own sentence, several their places and tokens."""
    now = loop(SONNET, 1000, [50], cached=False)
    prompt = finding("growth", "system[0]", "the prompt grew, from a.md:9", tokens=90, at="a.md:9")
    tool = finding("growth", "tools[look].description", "the tool grew", tokens=-7)
    turns = [finding("turns_changed", "turns", f"turn {turn} is gone") for turn in (2, 3)]
    before = Usage.of(Rate(SONNET), Tokens(input_tokens=900, output_tokens=50))
    begin = "accepted t.py::test_a: 900 -> 1,060 prompt tokens (+160), an unknown cost"

    def accepted(*findings: Any, anew: bool = False, **counters: str) -> str:
        document = made([scenario("t.py::test_a", "within", now, now, findings=findings)])
        ids, by = ["t.py::test_a"] if anew else [], {f"t.py::{name}": one for name, one in counters.items()}
        (sentence,) = acceptances(document, {"t.py::test_a": before}, ids, by, lambda _: None)
        return sentence

    assert accepted() == begin
    assert accepted(anew=True) == f"{begin}: it was recorded anew"
    assert accepted(test_a="ctok 1.3") == begin.replace("(+160)", "(+160, before by ctok 1.3)")
    assert accepted(prompt) == f"{begin}: the prompt grew, from a.md:9"
    led = finding("growth", "system[0]", "system[0]: +90 tokens, from a.md:9", tokens=90, at="a.md:9")
    words = "the system prompt (system[0])"
    assert accepted(led) == f"{begin}: {words}: +90 tokens, from a.md:9", "as in a red run"
    both = (
        f"{begin}: a.md:9: {words} +90 tokens; the description of a tool (tools[look].description) −7 tokens"
    )
    assert accepted(prompt, tool) == both
    assert accepted(prompt, tool, *turns) == f"{both}; turn 2 is gone; and 1 more"
