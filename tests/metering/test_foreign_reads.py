"""The foreign reads of a run: taken as writes, a run from a warm cache is the run from a cold one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

import pytest

from metering.test_cache_difference import HOUR, MARK, START, Api, Words, agent, ask, text
from pytest_tokenbudget.metering.cache_split import (
    RecordedTurn,
    as_warm,
    as_written,
    by_rate,
    foreign_reads,
    least_warm,
    same_start,
)
from pytest_tokenbudget.metering.models import Family
from pytest_tokenbudget.model import Rate, Tokens, Usage
from pytest_tokenbudget.wire.prompt import Prompt

RATE = Rate("claude-sonnet-4-5")
BATCH = Rate("claude-sonnet-4-5", ("batch",))


@dataclass(frozen=True)
class Case:
    """What a run asks, what was asked before it, and what of its reads is foreign, by rate and ttl."""

    asks: Sequence[Prompt]
    foreign: Mapping[Rate, Mapping[str, int]]
    before: Sequence[Prompt] | None = None
    """None: the same run, just before."""
    rate: Callable[[Prompt], Rate] = lambda prompt: Rate(prompt.model)
    sees: Mapping[int, set[int]] = field(default_factory=dict)
    """By request of the run: the earlier ones whose answers had begun when it was sent."""


SYSTEM = text(2000, "system", MARK)
HOURLY = text(2000, "system", HOUR)
ONE = ask([SYSTEM], text(40, "question"))
MIXED = ask([HOURLY, text(300, "rules")], text(1500, "question", MARK))
SUBAGENTS = [ask([SYSTEM], text(50, name)) for name in ("main", "first", "second")]
AT_ONCE = {0: set[int](), 1: set[int](), 2: set[int]()}
AUTOMATIC = [
    ask([text(900, "system")], *(text(300, f"m{n}") for n in range(2 * turn + 1)), **MARK)
    for turn in range(1, 4)
]
MARKED_MESSAGES = agent(mark=None)

CASES = {
    "one turn": Case([ONE], {RATE: {"5m": 2000}}),
    "a cold start": Case([ONE], {}, before=[]),
    "several turns that read on": Case(agent(turns=4), {RATE: {"5m": 2100}}, before=agent(turns=4)[:1]),
    "recorded warm: every turn reads what an earlier run wrote": Case(agent(turns=4), {RATE: {"5m": 2721}}),
    "an hour": Case([ask([HOURLY], text(40, "question"))], {RATE: {"1h": 2000}}),
    "an hour and five minutes": Case([MIXED], {RATE: {"1h": 2000, "5m": 1800}}),
    "an hour and five minutes, the hour alone warm": Case(
        [MIXED], {RATE: {"1h": 2000}}, before=[ask([HOURLY, text(300, "rules")], text(9, "else"))]
    ),
    "two models": Case(
        [ONE, replace(ONE, model="claude-haiku-4-5")],
        {RATE: {"5m": 2000}, Rate("claude-haiku-4-5"): {"5m": 2000}},
    ),
    "two models, one of them cold": Case(
        [ONE, replace(ONE, model="claude-haiku-4-5")], {RATE: {"5m": 2000}}, before=[ONE]
    ),
    "subagents that share a prefix read it as their own after the first": Case(
        SUBAGENTS, {RATE: {"5m": 2000}}
    ),
    "subagents that share a prefix, cold": Case(SUBAGENTS, {}, before=[]),
    "concurrent first calls all read what another run wrote": Case(
        SUBAGENTS, {RATE: {"5m": 6000}}, sees=AT_ONCE
    ),
    "automatic caching": Case(AUTOMATIC, {RATE: {"5m": 3000}}),
    "breakpoints of messages": Case(MARKED_MESSAGES, {RATE: {"5m": 2721}}),
    "below the minimum": Case([ask([text(1000, "system", MARK)], text(40, "question"))], {}),
    "a batch": Case([ONE], {BATCH: {"5m": 2000}}, rate=lambda _: BATCH),
}


def timed(index: int, case: Case) -> tuple[datetime, datetime]:
    """When a request was sent and its answer began: concurrent ones are sent in one second."""
    sent = START if index in case.sees else START + timedelta(seconds=10 * index)
    return sent, sent + timedelta(seconds=5)


def run(case: Case, api: Api) -> list[RecordedTurn]:
    """What the run bills on this API."""
    first = api.requests
    earlier = set(range(first))
    api.sees = {first + n: {first + other for other in seen} | earlier for n, seen in case.sees.items()}
    turns = []
    for index, prompt in enumerate(case.asks):
        sent, began = timed(index, case)
        turns.append(RecordedTurn(prompt, api.answer(prompt), began, sent))
    return turns


def usage(case: Case, turns: Sequence[RecordedTurn]) -> Usage:
    return sum((Usage.of(case.rate(turn.prompt), turn.tokens or Tokens()) for turn in turns), Usage())


def found(case: Case, turns: Sequence[RecordedTurn]) -> dict[Rate, dict[str, int]]:
    by_turn = foreign_reads(turns, minimums={}, counter=Words())
    rates = [case.rate(turn.prompt) for turn in turns]
    return {rate: dict(ttls) for rate, ttls in by_rate(zip(rates, by_turn, strict=True)).items()}


@pytest.mark.parametrize("name", CASES)
def test_foreign_reads_taken_as_writes_are_a_cold_start(name: str) -> None:
    case = CASES[name]
    api = Api()
    for prompt in case.asks if case.before is None else case.before:
        api.answer(prompt)
    measured = run(case, api)
    cold = usage(case, run(case, Api()))
    foreign = found(case, measured)
    assert as_written(usage(case, measured), foreign) == cold
    assert foreign == case.foreign


WARM = [ONE, ask([HOURLY], text(40, "question")), *SUBAGENTS[:1], ask([text(2000, "system")], text(9, "x"))]


@pytest.mark.parametrize("prompt", WARM, ids=["5m", "1h", "subagent", "nothing cached"])
def test_a_warm_prefix_is_what_a_first_turn_reads_just_after_another_run(prompt: Prompt) -> None:
    api = Api()
    first, again = (Usage.of(RATE, api.answer(prompt)) for _ in range(2))
    assert as_warm([first]) == again
    assert as_warm([again]) == again, "what reads is warm"
    assert as_warm([first, first]) == again + first, "later turns stay as they are"
    assert least_warm(first, {}) == again, "one turn wrote all"
    assert least_warm(first + first, {}) == again + again, "nobody knows which turn wrote it"
    rate = first.main_rate
    assert least_warm(first, {rate: {"5m": 7}}) == first, "what has foreign reads began warm"
    assert least_warm(first, {rate: {"5m": 0}}) == again


class Exactly:
    """Counts words as the tokens that they are here."""

    name, exact = "words", True

    def count(self, text: str, family: Family) -> int:
        return len(text.split())


def pdf(name: str) -> dict[str, Any]:
    source = {"type": "base64", "media_type": "application/pdf", "data": name}
    return {"type": "document", "source": source, **MARK}


def read(amount: int, written: int) -> Tokens:
    return Tokens(input_tokens=3, ephemeral_5m_input_tokens=written, cache_read_input_tokens=amount)


FIRST, SECOND = ask([SYSTEM], pdf("one")), ask([SYSTEM], pdf("two"))
LATER = ask([SYSTEM], pdf("one"), text(90, "answer"), text(200, "more", MARK))
SEARCH = ask([SYSTEM], text(40, "question"), tools=[{"type": "web_search_20250305", "name": "web_search"}])
FOUND = ask(
    [SYSTEM], text(40, "question"), text(6000, "found"), text(9, "on", MARK), tools=[SEARCH.blocks[0].content]
)
BRIEF = text(200, "system", MARK)
SHORT = ask([BRIEF], text(40, "question"), tools=[SEARCH.blocks[0].content])
SHORT_FOUND = ask(
    [BRIEF], text(40, "question"), text(6000, "found"), text(9, "on", MARK), tools=[SEARCH.blocks[0].content]
)
UNMARKED = ask([text(2000, "system")], text(40, "question"))


@pytest.mark.parametrize(
    ("turns", "foreign"),
    [
        pytest.param([(FIRST, read(0, 5000)), (LATER, read(5000, 290))], [0, 0], id="a PDF, cold"),
        pytest.param([(FIRST, read(5000, 0)), (LATER, read(5000, 290))], [5000, 0], id="a PDF, warm"),
        pytest.param([(FIRST, read(2000, 3000)), (SECOND, read(2000, 3000))], [2000, 0], id="two PDFs"),
        pytest.param([(SEARCH, read(2000, 2900))], [0], id="a server tool, cold: a later round reads"),
        pytest.param([(SEARCH, read(4000, 900))], [2200], id="a server tool, warm: the prefix once"),
        pytest.param([(SEARCH, read(4000, 900))] * 2, [2200, 0], id="a server tool: its own prefix"),
        pytest.param(
            [(SEARCH, read(2000, 9000)), (FOUND, read(20000, 900))],
            [0, 0],
            id="what the rounds of a server tool wrote is read on",
        ),
        pytest.param(
            [(SHORT, read(0, 9000)), (SHORT_FOUND, read(9000, 40))],
            [0, 0],
            id="what the rounds wrote behind a prompt below the minimum is read on",
        ),
        pytest.param([(UNMARKED, read(1500, 0))], [0], id="unasked, of a gateway"),
    ],
)
def test_what_cannot_be_simulated_is_told_by_what_it_billed(
    turns: Sequence[tuple[Prompt, Tokens]], foreign: Sequence[int]
) -> None:
    measured = [
        RecordedTurn(prompt, tokens, worked="web_search" if prompt.level("tools") else None)
        for prompt, tokens in turns
    ]
    by_turn = foreign_reads(measured, minimums={}, counter=Exactly())
    assert [sum(ttls.values()) for ttls in by_turn] == pytest.approx(foreign, rel=0.1)  # 2,000 and the tool


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ({}, {}, True),
        ({"5m": 2000}, {"5m": 1901}, True),
        ({"5m": 2000}, {"5m": 1899}, False),
        ({"5m": 2000}, {}, False),
        ({"5m": 2000}, {"1h": 2000}, False),
    ],
)
def test_starts_within_five_per_cent_are_the_same(
    one: Mapping[str, int], other: Mapping[str, int], same: bool
) -> None:
    assert same_start({RATE: one}, {RATE: other}) == same_start({RATE: other}, {RATE: one}) == same


def test_no_more_becomes_a_write_than_was_read() -> None:
    used = Usage.of(RATE, Tokens(cache_read_input_tokens=100))
    written = as_written(used, {RATE: {"1h": 70, "5m": 70}, BATCH: {"5m": 9}})
    assert written == Usage.of(RATE, Tokens(ephemeral_1h_input_tokens=70, ephemeral_5m_input_tokens=30))
