"""The turns of a scenario as a table: what each sent, wrote, read and answered, and what it was."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pytest_tokenbudget.reports.document import Count, ScenarioEntry, TurnEntry
from pytest_tokenbudget.reports.text import plain
from pytest_tokenbudget.wording import NONE, UNKNOWN, count, signed

_WORDS = ("model", "basis", "paired")


@dataclass(frozen=True, slots=True)
class TurnTable:
    """Cells under headers; what is the same in every row is no column but one of the `facts`."""

    headers: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    facts: tuple[str, ...]
    hidden: int = 0
    """Turns that are not among the rows."""

    @property
    def numbers(self) -> list[bool]:
        """Which columns hold numbers."""
        return [header not in _WORDS for header in self.headers]

    def without(self, header: str) -> TurnTable:
        """The same table, one column less."""
        kept = [index for index, name in enumerate(self.headers) if name != header]
        cut = tuple(tuple(row[index] for index in kept) for row in self.rows)
        return TurnTable(tuple(self.headers[index] for index in kept), cut, self.facts, self.hidden)


def turn_table(scenario: ScenarioEntry, most: int | None = None) -> TurnTable:
    """The turns that changed (all of them when none did), at most `most`; every turn when `most` is None.

    Turns are counted from 1. `was` and `change` speak of the prompt, or of what is read from the cache where
    only that is over its limit.
    """
    turns = scenario["turns"]
    shown = turns
    if most is not None:
        shown = [turn for turn in turns if turn["tokens"] != turn["recorded"]] or turns
        shown = shown[:most]
    exceeded = {limit["metric"] for limit in scenario["limits"] if limit["over"]}
    about_reads = "cache_share" in exceeded and "prompt_tokens" not in exceeded
    subject: Count = "cache_read_input_tokens" if about_reads else "prompt_tokens"
    was = "read was" if about_reads else "was"
    headers = ("turn", *_WORDS, "prompt", "written", "read", "output", was, "change")
    table = TurnTable(headers, tuple(_cells(turn, subject) for turn in shown), (), len(turns) - len(shown))
    return _without_sameness(table)


def _cells(turn: TurnEntry, subject: Count) -> tuple[str, ...]:
    tokens, recorded = turn["tokens"], turn["recorded"]
    words = (plain(turn["model"] or UNKNOWN), turn["basis"], turn["paired"] or NONE)
    was = NONE if recorded is None else count(recorded[subject])
    if tokens is None:
        return (str(turn["index"] + 1), *words, UNKNOWN, UNKNOWN, UNKNOWN, UNKNOWN, was, UNKNOWN)
    about = "~" if turn["basis"] == "estimated" else ""
    moved = None if recorded is None else tokens[subject] - recorded[subject]
    return (
        str(turn["index"] + 1),
        *words,
        about + count(tokens["prompt_tokens"]),
        about + count(tokens["cache_creation_input_tokens"]),
        about + count(tokens["cache_read_input_tokens"]),
        count(tokens["output_tokens"]),
        was,
        NONE if moved is None else about + signed(moved, count(moved)),
    )


def _without_sameness(table: TurnTable) -> TurnTable:
    facts = []
    for word in _WORDS:
        values = _column(table, word)
        if len(set(values)) == 1:
            facts.append(f"paired: {values[0]}" if word == "paired" else values[0])
            table = table.without(word)
    for header in table.headers:
        if set(_column(table, header)) == {NONE}:
            table = table.without(header)
    return TurnTable(table.headers, table.rows, tuple(facts), table.hidden)


def _column(table: TurnTable, header: str) -> Sequence[str]:
    index = table.headers.index(header)
    return [row[index] for row in table.rows]
