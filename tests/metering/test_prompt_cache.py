"""The prompt cache by its documented rules, and against a naive implementation of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_tokenbudget.metering.cache_rules import cache_model, hidden_sizes, minimum
from pytest_tokenbudget.metering.prompt_cache import CacheTurn, Outcome, Shown, chain, simulate, visible
from pytest_tokenbudget.wire.prompt import Prompt, parse_prompt
from support.blocks import text, tool

START = datetime(2026, 11, 21, 12, tzinfo=UTC)
SIZE = 2000
"""Tokens of every block, and of what follows the last one."""
MARK = {"cache_control": {"type": "ephemeral"}}
HOUR = {"cache_control": {"type": "ephemeral", "ttl": "1h"}}


def says(*blocks: dict[str, Any], role: str = "user") -> dict[str, Any]:
    return {"role": role, "content": list(blocks)}


def ask(*messages: dict[str, Any], betas: Sequence[str] = (), **body: Any) -> Prompt:
    body = {"model": "claude-sonnet-4-5", "messages": list(messages), **body}
    return parse_prompt(body, betas=betas)


def turn(
    prompt: Prompt, seconds: float | None = None, sent: float | None = None, size: int = SIZE
) -> CacheTurn:
    its = chain(prompt)
    sizes = tuple(size * (position + 1) for position in range(len(its.links)))
    began, asked = (None if s is None else START + timedelta(seconds=s) for s in (seconds, sent))
    return CacheTurn(its, sizes, size * (len(its.links) + 1), began, asked)


def counts(outcome: Outcome) -> tuple[int, int, int, int]:
    """In blocks: read, written for an hour, written for five minutes, uncached."""
    parts = (outcome.read, outcome.written_1h, outcome.written_5m, outcome.uncached)
    assert all(part % SIZE == 0 for part in parts)
    return parts[0] // SIZE, parts[1] // SIZE, parts[2] // SIZE, parts[3] // SIZE


def run(*prompts: Prompt, **known: Any) -> list[tuple[int, int, int, int]]:
    return [counts(outcome) for outcome in simulate([turn(prompt) for prompt in prompts], **known)]


# -- reading, writing, billing ------------------------------------------------------------------------------

OLD = [text(f"old {n}") for n in range(15)]
SYSTEM = [text("system", MARK)]


def test_a_conversation_reads_what_it_wrote() -> None:
    first = ask(says(text("a", MARK)), system=SYSTEM)
    second = ask(says(text("a")), says(text("b"), role="assistant"), says(text("c", MARK)), system=SYSTEM)
    assert run(first, second) == [(0, 0, 2, 1), (2, 0, 2, 1)]


def test_marks_are_no_part_of_the_prefix() -> None:
    marked, plain = ask(says(text("a", MARK), text("b"))), ask(says(text("a"), text("b", MARK)))
    assert run(marked, plain) == [(0, 0, 1, 2), (1, 0, 1, 1)]


def test_a_string_is_a_block_of_text() -> None:
    as_list = ask(says(text("a", MARK)), system=[text("s")])
    as_string = ask({"role": "user", "content": "a"}, says(text("b", MARK)), system="s")
    assert run(as_list, as_string) == [(0, 0, 2, 1), (2, 0, 1, 1)]


def test_nothing_is_written_between_breakpoints() -> None:
    first = ask(says(text("a"), text("b", MARK)))
    second = ask(says(text("a"), text("other", MARK)))
    assert run(first, second) == [(0, 0, 2, 1), (0, 0, 2, 1)]


@pytest.mark.parametrize(
    ("new_blocks", "read"),
    [(19, 15), (20, 0)],
    ids=["position 20 counting the breakpoint is looked at", "the documented miss: breakpoint 35, entry 15"],
)
def test_look_back(new_blocks: int, read: int) -> None:
    first = ask(says(*OLD[:-1], {**OLD[-1], **MARK}))
    new = [text(f"new {n}") for n in range(new_blocks)]
    new[-1] |= MARK
    assert run(first, ask(says(*OLD, *new)))[1][0] == read


def test_an_earlier_breakpoint_looks_back_on_its_own() -> None:
    first = ask(says(*OLD[:-1], {**OLD[-1], **MARK}))
    new = [text(f"new {n}") for n in range(20)]
    new[0] |= MARK
    new[-1] |= MARK
    assert run(first, ask(says(*OLD, *new)))[1] == (15, 0, 20, 1)


@pytest.mark.parametrize(
    ("marks", "earlier", "expected"),
    [
        ((HOUR, None, MARK), None, (0, 1, 2, 1)),
        ((HOUR, HOUR, MARK), None, (0, 2, 1, 1)),
        ((HOUR, None, None), None, (0, 1, 0, 3)),
        ((HOUR, HOUR, MARK), (HOUR, None, None), (1, 1, 1, 1)),
        ((HOUR, None, MARK), (HOUR, None, None), (1, 0, 2, 1)),
        ((HOUR, None, MARK), (None, None, MARK), (3, 0, 0, 1)),
        ((MARK, None, None), (MARK, None, None), (1, 0, 0, 3)),
    ],
)
def test_split_by_lifetime(
    marks: Sequence[Any], earlier: Sequence[Any] | None, expected: Sequence[int]
) -> None:
    def of(each: Sequence[Any]) -> Prompt:
        return ask(says(*(text(str(n), mark) for n, mark in enumerate(each))))

    assert run(*([of(earlier)] if earlier else []), of(marks))[-1] == expected


@pytest.mark.parametrize(
    ("content", "position"),
    [
        ([text("a"), text("b")], 1),
        ([text("a"), text("")], 0),
        ([text("a", MARK), text("b")], 1),
        ([text("a"), {"type": "image", "source": {"type": "base64", "data": "x"}}], 1),
    ],
)
def test_automatic_caching_marks_the_last_block_that_can_be(content: list[Any], position: int) -> None:
    assert max(chain(ask(says(*content), **MARK)).breakpoints) == position


def test_automatic_caching_passes_thinking_over_and_keeps_an_explicit_mark() -> None:
    thought = {"type": "thinking", "thinking": "hm", "signature": "s"}
    prefill = ask(says(text("a")), says(thought, role="assistant"), model="claude-opus-4-6", **HOUR)
    assert chain(prefill).breakpoints == {0: "1h"}
    assert chain(ask(says(text("a", HOUR)), **HOUR)).breakpoints == {0: "1h"}
    assert chain(ask(says(text("a")))).breakpoints == {}


def test_a_mark_inside_a_tool_result_is_the_results_own() -> None:
    def result(content: Any) -> Prompt:
        return ask(
            says({"type": "tool_result", "tool_use_id": "t", "content": content}), says(text("b", MARK))
        )

    inside = ask(says({"type": "tool_result", "tool_use_id": "t", "content": [text("found", HOUR)]}))
    assert chain(inside).breakpoints == {0: "1h"}
    assert run(inside, result([text("found")]), result("found"))[1:] == [(1, 0, 1, 1), (2, 0, 0, 1)]


@pytest.mark.parametrize(
    ("model", "tokens"),
    [
        ("claude-opus-4-8", 1024),
        ("claude-sonnet-4-6", 1024),
        ("claude-haiku-4-5-20251001", 4096),
        ("eu.anthropic.claude-haiku-4-5-20251001-v1:0", 4096),
        ("claude-3-5-haiku-latest", 2048),
        ("claude-opus-4-7", 2048),
        ("claude-opus-5-5", 512),
        ("a-model-of-next-year", 512),
    ],
)
def test_minimum(model: str, tokens: int) -> None:
    prompt = ask(says(text("a", MARK)), model=model)
    for size, entries in ((tokens - 1, ()), (tokens, (0,))):
        (outcome,) = simulate([turn(prompt, size=size)])
        assert outcome.marked == entries
        assert outcome.written_5m == (size if entries else 0)
    (outcome,) = simulate([turn(prompt, size=tokens)], minimums={model: tokens + 1})
    assert (outcome.written_5m, outcome.uncached) == (0, 2 * tokens)
    assert outcome.miss is not None
    assert outcome.miss.cause == "below_minimum"


def test_an_override_names_the_model_as_requests_do() -> None:
    assert minimum(cache_model("claude-sonnet-4-5-20250929"), {"claude-sonnet-4-5": 7}) == 7
    assert minimum(cache_model("claude-sonnet-4-6"), {"claude-sonnet-4-5": 7}) == 1024


# -- lifetime, order, scope ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mark", "seconds", "read"),
    [
        (MARK, (0, 300), 1),
        (MARK, (0, 301), 0),
        (MARK, (0, 200, 400), 1),
        (HOUR, (0, 3600), 1),
        (HOUR, (0, 3601), 0),
        (MARK, (None, None), 1),
    ],
    ids=["5m", "5m over", "a read refreshes", "1h", "1h over", "no dates"],
)
def test_lifetime(mark: Any, seconds: Sequence[float | None], read: int) -> None:
    outcomes = simulate([turn(ask(says(text("a", mark))), at) for at in seconds])
    assert counts(outcomes[-1])[0] == read


def test_reading_a_prefix_refreshes_those_inside_it() -> None:
    whole = ask(says(text("a", MARK)), system=SYSTEM)
    other = ask(says(text("b", MARK)), system=SYSTEM)
    outcomes = simulate([turn(whole, 0), turn(whole, 200), turn(other, 400)])
    assert counts(outcomes[2]) == (1, 0, 1, 1)


def test_concurrent_first_calls_all_write() -> None:
    prompt = ask(says(text("a", MARK)))
    outcomes = simulate([turn(prompt, 3, sent=0), turn(prompt, 4, sent=1), turn(prompt, 5, sent=3)])
    assert [counts(outcome)[0] for outcome in outcomes] == [0, 0, 1]


def test_what_the_recording_shows_holds() -> None:
    prompt = ask(says(text("a", MARK)))
    blind = {1: Shown(blind=frozenset({(0, "messages")}))}
    assert [read for read, *_ in run(prompt, prompt, prompt, shown=blind)] == [0, 0, 1]
    assert [read for read, *_ in run(prompt, shown={0: Shown(warm=(chain(prompt), (0,)))})] == [1]
    warm = Shown(warm=(chain(prompt), (0,)))
    assert counts(simulate([turn(prompt, 3, sent=0)], shown={0: warm})[0])[0] == 1  # it was there before
    assert run(prompt, prompt, shown={0: Shown(off=True)}) == [(0, 0, 0, 2), (0, 0, 1, 1)]
    late = [turn(prompt, 0), turn(prompt, 301)]
    assert [counts(each)[0] for each in simulate(late, shown={1: Shown(timeless=True)})] == [0, 1]
    early = [turn(prompt, 3, sent=0), turn(prompt, 4, sent=1)]
    assert [counts(each)[0] for each in simulate(early, shown={1: Shown(timeless=True)})] == [0, 1]


@pytest.mark.parametrize("at", [0, 1, 2, 3])
def test_what_was_warm_at_a_later_turn_is_no_turns_own(at: int) -> None:
    """It was in the cache before that turn: whoever reads it reads what no turn of the run wrote."""
    other, prompt = ask(says(text("other", MARK))), ask(says(text("a", MARK)), says(text("b", MARK)))
    short = ask(says(text("a")), says(text("c", MARK)))
    warm = {at: Shown(warm=(chain(prompt), (0, 1)))}
    whole, lost = (simulate([turn(other)] * at + [turn(last)], shown=warm)[at] for last in (prompt, short))
    assert (whole.read, whole.source) == (2 * SIZE, None)
    assert (lost.read, lost.source) == (SIZE, None)
    assert lost.miss is not None
    assert (lost.miss.cause, lost.miss.turn) == ("changed", None)


def test_what_was_warm_and_is_written_anew_is_that_turns() -> None:
    prompt = ask(says(text("a", MARK)))
    warm = {0: Shown(warm=(chain(prompt), (0,)))}
    outcomes = simulate([turn(prompt, 0), turn(prompt, 301), turn(prompt, 400)], shown=warm)
    assert [(outcome.read // SIZE, outcome.source) for outcome in outcomes] == [(1, None), (0, None), (1, 1)]


def test_a_read_refreshes_nothing_behind_what_it_reads() -> None:
    """The blocks behind the last breakpoint are sent, not read: their entry runs out all the same."""
    whole = ask(says(text("a", MARK), text("b", MARK)))
    part = ask(says(text("a", MARK), text("b")))
    outcomes = simulate([turn(whole, 0), turn(part, 200), turn(whole, 400)])
    assert [counts(outcome) for outcome in outcomes] == [(0, 0, 2, 1), (1, 0, 0, 2), (1, 0, 1, 1)]


def test_a_read_refreshes_what_it_reads_to_its_end() -> None:
    whole = ask(says(text("a", MARK), text("b", MARK)))
    outcomes = simulate([turn(whole, 0), turn(whole, 200), turn(whole, 400)])
    assert [counts(outcome)[0] for outcome in outcomes] == [0, 2, 2]


def test_the_source_is_the_last_that_wrote_what_is_read_and_no_reader() -> None:
    prompt = ask(says(text("a", MARK)))
    both = [
        turn(prompt, 3, sent=0),
        turn(prompt, 4, sent=1),
        turn(prompt, 5, sent=5),
        turn(prompt, 6, sent=6),
    ]
    assert [outcome.source for outcome in simulate(both)] == [None, None, 1, 1]


def test_what_two_write_at_once_behind_what_both_read_is_written_by_both() -> None:
    """The block right behind the prefix that they read: neither sees it, though it is there already."""
    first, both = ask(system=SYSTEM), ask(says(text("a", MARK)), system=SYSTEM)
    turns = [turn(first, 0), turn(both, 4, sent=1), turn(both, 5, sent=2), turn(both, 6, sent=6)]
    outcomes = simulate(turns)
    assert [counts(outcome)[0] for outcome in outcomes] == [0, 1, 1, 2]
    assert [outcome.source for outcome in outcomes] == [None, 0, 0, 2]


@pytest.mark.parametrize("marks", [(MARK, HOUR), (HOUR, MARK)])
def test_of_two_that_write_at_once_the_longer_lifetime_holds(marks: Sequence[Any]) -> None:
    one, other = (ask(says(text("a", mark))) for mark in marks)
    turns = [turn(one, 3, sent=0), turn(other, 4, sent=1), turn(one, 1000)]
    assert [counts(outcome)[0] for outcome in simulate(turns)] == [0, 0, 1]


def test_what_is_written_anew_has_the_lifetime_of_now() -> None:
    hour, minutes = ask(says(text("a", HOUR))), ask(says(text("a", MARK)))
    turns = [turn(hour, 0), turn(minutes, 3700), turn(minutes, 4100)]
    assert [counts(outcome) for outcome in simulate(turns)] == [(0, 1, 0, 1), (0, 0, 1, 1), (0, 0, 1, 1)]


def test_a_read_after_its_time_writes_anew_what_had_run_out_inside_it() -> None:
    whole, other = ask(says(text("a", MARK)), system=SYSTEM), ask(says(text("b", MARK)), system=SYSTEM)
    turns = [turn(whole, 0), turn(whole, 301), turn(other, 500)]
    outcomes = simulate(turns, shown={1: Shown(timeless=True)})
    assert [counts(outcome)[0] for outcome in outcomes] == [0, 2, 1]


def test_a_marker_of_no_known_lifetime_is_one_of_five_minutes() -> None:
    prompt = ask(says(text("a", {"cache_control": {"type": "ephemeral", "ttl": "2h"}})))
    turns = [turn(prompt, 0), turn(prompt, 300), turn(prompt, 601)]
    assert [counts(outcome) for outcome in simulate(turns)] == [(0, 0, 1, 1), (1, 0, 0, 1), (0, 0, 1, 1)]


def test_what_was_warm_without_a_marker_lasts_five_minutes() -> None:
    unmarked, marked = ask(says(text("a"), text("b", HOUR))), ask(says(text("a", HOUR)))
    warm = {0: Shown(warm=(chain(unmarked), (0,)))}
    for seconds, read in ((300, 1), (301, 0)):
        outcomes = simulate([turn(ask(says(text("c"))), 0), turn(marked, seconds)], shown=warm)
        assert counts(outcomes[1])[0] == read


@pytest.mark.parametrize(
    ("breakpoints", "positions"),
    [
        ((), []),
        ((0,), [0]),
        ((3,), [3, 2, 1, 0]),
        ((18,), list(range(18, -1, -1))),
        ((19,), list(range(19, -1, -1))),
        ((20,), list(range(20, 0, -1))),
        ((5, 40), [*range(40, 20, -1), *range(5, -1, -1)]),
        ((3, 5), [5, 4, 3, 2, 1, 0]),
    ],
)
def test_which_positions_are_looked_at(breakpoints: Sequence[int], positions: Sequence[int]) -> None:
    """At most 20 from each breakpoint, itself counted, never one before the first, the last ones first."""
    assert visible(breakpoints) == positions


IMAGE = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "eA=="}}
THINKING = {"thinking": {"type": "enabled", "budget_tokens": 1024}}
ADDED = says(text("later", MARK))
BASE = {"tools": [tool("t", MARK)], "system": SYSTEM}


@pytest.mark.parametrize(
    ("change", "read", "named"),
    [
        ({}, 3, ()),
        ({"tool_choice": {"type": "auto"}}, 3, ()),
        ({"thinking": {"type": "disabled"}}, 3, ()),
        ({"output_config": {"effort": "high"}}, 3, ()),
        ({"max_tokens": 7, "temperature": 0.5, "metadata": {"user_id": "u"}, "stream": True}, 3, ()),
        ({"model": "claude-sonnet-4-5-20250929"}, 3, ()),
        ({"betas": ("prompt-caching-2024-07-31",)}, 3, ()),
        ({"tool_choice": {"type": "any"}}, 2, ("tool_choice",)),
        ({"tool_choice": {"type": "tool", "name": "t"}}, 2, ("tool_choice",)),
        ({"tool_choice": {"type": "none"}}, 2, ("tool_choice",)),
        (
            {"tool_choice": {"type": "auto", "disable_parallel_tool_use": True}},
            2,
            ("disable_parallel_tool_use",),
        ),
        (THINKING, 2, ("thinking",)),
        ({"output_config": {"effort": "low"}}, 2, ("effort",)),
        ({"context_management": {"edits": []}}, 2, ("context_management",)),
        ({"speed": "fast"}, 1, ("speed",)),
        ({"output_format": {"type": "json_schema", "schema": {}}}, 1, ("output_format",)),
        ({"model": "claude-sonnet-4-6"}, 0, ("model",)),
        ({"betas": ("context-1m-2025-08-07",)}, 0, ("betas",)),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else None,
)
def test_invalidation(change: dict[str, Any], read: int, named: Sequence[str]) -> None:
    before = ask(says(text("a", MARK)), **BASE)
    after = ask(says(text("a")), ADDED, **{**BASE, **change})
    outcome = simulate([turn(before), turn(after)])[1]
    assert counts(outcome)[0] == read
    assert (outcome.miss is None) is not named
    if named:
        assert outcome.miss is not None
        assert (outcome.miss.cause, outcome.miss.parameters) == ("parameter", tuple(named))
        assert outcome.miss.lost == (3 - read) * SIZE


@pytest.mark.parametrize("parameter", [THINKING, {"output_config": {"effort": "low"}}], ids=str)
def test_newer_models_start_over_when_thinking_changes(parameter: dict[str, Any]) -> None:
    base = {**BASE, "model": "claude-opus-4-8"}
    before, after = ask(says(text("a", MARK)), **base), ask(says(text("a")), ADDED, **base, **parameter)
    assert run(before, after)[1][0] == 0


@pytest.mark.parametrize(
    ("block", "level"),
    [
        (IMAGE, 2),
        ({"type": "tool_result", "tool_use_id": "t", "content": [IMAGE]}, 2),
        (
            {
                "type": "document",
                "source": {"type": "text", "data": "d"},
                "citations": {"enabled": True},
            },
            1,
        ),
    ],
    ids=["image", "image in a result", "citations"],
)
def test_content_that_invalidates_by_being_there(block: dict[str, Any], level: int) -> None:
    before = ask(says(text("a", MARK)), **BASE)
    assert run(before, ask(says(text("a")), says(block), ADDED, **BASE))[1][0] == level


def test_web_tools_keep_the_tools() -> None:
    web = {"type": "web_search_20250305", "name": "web_search"}
    before = ask(says(text("a", MARK)), **BASE)
    after = ask(says(text("a")), ADDED, **{**BASE, "tools": [tool("t", MARK), web]})
    outcome = simulate([turn(before), turn(after)])[1]
    assert outcome.hit is not None
    assert chain(after).links[outcome.hit].block.level == "tools"
    assert outcome.miss is not None
    assert outcome.miss.parameters == ("web_tools",)


@pytest.mark.parametrize(
    ("model", "read"), [("claude-sonnet-4-5", 1), ("claude-haiku-4-5", 1), ("claude-opus-4-5", 4)]
)
def test_older_models_drop_thinking_when_the_user_speaks(model: str, read: int) -> None:
    thought = {"type": "thinking", "thinking": "hm", "signature": "s"}
    call = {"type": "tool_use", "id": "t", "name": "t", "input": {}}
    result = {"type": "tool_result", "tool_use_id": "t", "content": "r"}
    body: dict[str, Any] = {"model": model, **THINKING}
    first = ask(says(text("a", MARK)), **body)
    loop = [says(text("a")), says(thought, call, role="assistant")]
    second = ask(*loop, says({**result, **MARK}), **body)
    third = ask(*loop, says(result), says(text("b", MARK)), **body)
    turns = [turn(prompt, size=5000) for prompt in (first, second, third)]
    outcomes = simulate(turns)
    assert outcomes[1].read == 5000
    assert outcomes[2].read == read * 5000


# -- why ----------------------------------------------------------------------------------------------------


def test_a_changed_block_is_named_with_what_stood_there() -> None:
    before = ask(says(text("a", MARK)), system=[text("Today is Monday", MARK)], tools=[tool("t")])
    after = ask(says(text("a", MARK)), system=[text("Today is Tuesday", MARK)], tools=[tool("t")])
    miss = simulate([turn(before), turn(after)])[1].miss
    assert miss is not None
    assert (miss.cause, miss.turn) == ("changed", 0)
    assert (miss.block and miss.block.content["text"]) == "Today is Tuesday"
    assert (miss.was and miss.was.content["text"]) == "Today is Monday"
    assert miss.lost == SIZE  # the tool, which was in no entry of its own


def test_the_warm_state_is_compared_with_as_well() -> None:
    recorded = ask(says(text("a", MARK)), system=[text("old", MARK)])
    now = ask(says(text("a", MARK)), system=[text("new", MARK)])
    (outcome,) = simulate([turn(now)], shown={0: Shown(warm=(chain(recorded), (0,)))})
    assert outcome.miss is not None
    assert (outcome.miss.cause, outcome.miss.turn) == ("changed", None)
    assert outcome.miss.was is not None
    assert outcome.miss.was.content["text"] == "old"


LONG = [text(f"n{n}") for n in range(25)]


@pytest.mark.parametrize(
    ("first", "second", "seconds", "cause"),
    [
        ([text("a", MARK)], [text("b", MARK)], (0, 1), "changed"),
        ([text("a", MARK)], [text("a")], (0, 1), "no_breakpoint"),
        ([text("a", MARK)], [text("a"), *LONG[:-1], {**LONG[-1], **MARK}], (0, 1), "look_back"),
        ([text("a"), text("b", MARK)], [text("a", MARK), text("b"), text("c")], (0, 1), "moved"),
        ([text("a", MARK)], [text("a", MARK)], (0, 301), "expired"),
        ([text("a")], [text("a", MARK)], (0, 1), "cold"),
        ([text("a", MARK)], [text("a", MARK)], (0, 1), None),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_causes(first: list[Any], second: list[Any], seconds: Sequence[float], cause: str | None) -> None:
    outcome = simulate([turn(ask(says(*first)), seconds[0]), turn(ask(says(*second)), seconds[1])])[1]
    assert (outcome.miss and outcome.miss.cause) == cause


def test_another_agent_is_no_break_of_the_first() -> None:
    one = ask(says(text("a", MARK)), system=SYSTEM)
    other = ask(says(text("b", MARK)), system=SYSTEM)
    more = ask(says(text("a")), ADDED, system=SYSTEM)
    outcomes = simulate([turn(one), turn(other), turn(more)])
    assert [outcome.source for outcome in outcomes] == [None, 0, 0]
    assert outcomes[2].miss is None


# -- blocks whose size the request does not show ------------------------------------------------------------

PDF = {"type": "document", "source": {"type": "base64", "media_type": "application/pdf", "data": "x"}}
TOOL = {"name": "look_up", "input_schema": {}}


@pytest.mark.parametrize(
    ("body", "hidden"),
    [
        ({"tools": [TOOL, {"type": "web_search_20250305", "name": "web_search"}]}, {1: "tools[1]: server"}),
        ({"tools": [{"type": "mcp_toolset", "mcp_server_name": "m"}]}, {0: "tools[0]: server tools"}),
        (
            {
                "mcp_servers": [{"name": "m"}],
                "tools": [TOOL, {"type": "mcp_toolset", "mcp_server_name": "m"}],
            },
            {1: "tools[1]: server tools"},
        ),
        ({"mcp_servers": [{"name": "m"}], "tools": [TOOL], "system": "s"}, {0: "mcp_servers: what it adds"}),
        ({"container": {"skills": [{"skill_id": "x"}]}, "system": "s"}, {0: "container: what it adds"}),
        ({"messages": [says({"type": "server_tool_use", "name": "x"})]}, {0: "content[0]: server tools"}),
        ({"messages": [says({"type": "web_search_tool_result"})]}, {0: "content[0]: server tools"}),
        ({"messages": [says(text("a"), PDF)]}, {1: "messages[0].content[1]: a PDF"}),
        (
            {"messages": [says({"type": "tool_result", "tool_use_id": "t", "content": [PDF]})]},
            {0: "content[0]: a PDF"},
        ),
        ({"messages": [says({"type": "image", "source": {"type": "url"}})]}, {0: "an image that is not"}),
        ({"messages": [says({"type": "image", "source": {"type": "file"}}, PDF)]}, {0: "image", 1: "PDF"}),
        ({"messages": [says({"type": "document", "source": {"type": "text", "data": "d"}})]}, {}),
        ({"messages": [says(IMAGE)]}, {}),
        ({"tools": [{"type": "bash_20250124", "name": "bash"}, {"type": "custom", **TOOL}]}, {}),
        ({"mcp_servers": [{"name": "m"}]}, {}),
    ],
)
def test_hidden_sizes(body: dict[str, Any], hidden: dict[int, str]) -> None:
    found = hidden_sizes(parse_prompt({"model": "m", "messages": [], **body}))
    assert list(found) == list(hidden)
    assert all(reason in found[index] for index, reason in hidden.items())


# -- a naive implementation of the documented algorithm -----------------------------------------------------


@dataclass
class Naive:
    """The documentation, word by word: every entry is kept whole and compared block by block."""

    minimum: int

    def __post_init__(self) -> None:
        self.entries: list[dict[str, Any]] = []

    def ask(self, blocks: list[tuple[str, str | None]], size: int, now: float) -> tuple[int, int, int, int]:
        names = [name for name, _ in blocks]
        marks = [index for index, (_, ttl) in enumerate(blocks) if ttl and size * (index + 1) >= self.minimum]
        hit = -1
        for mark in marks:
            for index in range(mark, mark - 20, -1):
                if index >= 0 and self._alive(names[: index + 1], now):
                    hit = max(hit, index)
                    break
        for entry in self.entries:
            if entry["names"] == names[: len(entry["names"])] and len(entry["names"]) <= hit + 1:
                self._use(entry, now)
        for mark in marks:
            if mark > hit or not self._alive(names[: mark + 1], now):
                self.entries.append({"names": names[: mark + 1], "ttl": blocks[mark][1], "used": now})
        a = size * (hit + 1)
        b = max([size * (mark + 1) for mark in marks if mark > hit and blocks[mark][1] == "1h"], default=a)
        c = max([size * (mark + 1) for mark in marks if mark > hit], default=a)
        return a, b - a, c - b, size * (len(blocks) + 1) - c

    def _alive(self, names: list[str], now: float) -> bool:
        return any(
            entry["names"] == names and now - entry["used"] <= {"5m": 300, "1h": 3600}[entry["ttl"]]
            for entry in self.entries
        )

    def _use(self, entry: dict[str, Any], now: float) -> None:
        if now - entry["used"] <= {"5m": 300, "1h": 3600}[entry["ttl"]]:
            entry["used"] = now


def conversations() -> st.SearchStrategy[list[list[tuple[str, str | None]]]]:
    """Requests that share beginnings: each keeps some blocks of an earlier one, and adds and marks others."""
    marks = st.sampled_from([None, None, None, "5m", "5m", "1h"])
    added = st.lists(st.tuples(st.sampled_from("abc"), marks), min_size=1, max_size=30)

    def grow(
        steps: list[tuple[int, int, list[tuple[str, str | None]]]],
    ) -> list[list[tuple[str, str | None]]]:
        requests: list[list[tuple[str, str | None]]] = []
        for back, keep, more in steps:
            earlier = requests[-1 - back % len(requests)] if requests else []
            requests.append(_four_marks([*earlier[: keep % (len(earlier) + 1)], *more]))
        return requests

    step = st.tuples(st.integers(0, 3), st.integers(0, 60), added)
    return st.lists(step, min_size=1, max_size=8).map(grow)


def _four_marks(blocks: list[tuple[str, str | None]]) -> list[tuple[str, str | None]]:
    """The last four marks, those for an hour first, as the API takes them."""
    last = [index for index, (_, ttl) in enumerate(blocks) if ttl][-4:]
    hours = sorted((blocks[index][1] for index in last), key=lambda ttl: ttl != "1h")
    ttls = dict(zip(last, hours, strict=True))
    return [(name, ttls.get(index)) for index, (name, _) in enumerate(blocks)]


@given(
    conversations(),
    st.lists(st.sampled_from([1, 100, 250, 400, 4000]), min_size=8, max_size=8),
    st.integers(1, 9),
)
def test_the_simulation_is_the_documented_algorithm(
    requests: list[list[tuple[str, str | None]]], gaps: list[float], least: int
) -> None:
    naive = Naive(minimum=least * SIZE)
    now = 0.0
    turns, expected = [], []
    for blocks, gap in zip(requests, gaps, strict=False):
        now += gap
        content = [text(name, {"5m": MARK, "1h": HOUR}[ttl] if ttl else None) for name, ttl in blocks]
        turns.append(turn(ask(says(*content)), now))
        expected.append(naive.ask(blocks, SIZE, now))
    outcomes = simulate(turns, minimums={"claude-sonnet-4-5": least * SIZE})
    assert [(o.read, o.written_1h, o.written_5m, o.uncached) for o in outcomes] == expected
    for outcome, each in zip(outcomes, turns, strict=True):
        assert outcome.read + outcome.written_1h + outcome.written_5m + outcome.uncached == each.total
        assert outcome.read or outcome.miss is not None
