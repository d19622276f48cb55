"""The recorded split, corrected by the simulated difference: against an API with a cache of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_tokenbudget.metering.cache_split import CurrentTurn, RecordedTurn, Split, from_one_start, resplit
from pytest_tokenbudget.metering.estimate import Part
from pytest_tokenbudget.metering.models import Family
from pytest_tokenbudget.model import Tokens
from pytest_tokenbudget.wire.prompt import Block, Prompt, parse_prompt

START = datetime(2026, 11, 21, 12, tzinfo=UTC)
MARK = {"cache_control": {"type": "ephemeral"}}
HOUR = {"cache_control": {"type": "ephemeral", "ttl": "1h"}}
AFTER = 3
"""Tokens after the last block."""


def words(count: int, name: str) -> str:
    """A text that this API counts as so many tokens."""
    return " ".join([name] * count)


def text(count: int, name: str, mark: Mapping[str, Any] | None = None) -> dict[str, Any]:
    return {"type": "text", "text": words(count, name), **(mark or {})}


def ask(system: list[Any], *messages: dict[str, Any], **body: Any) -> Prompt:
    turns = [{"role": "user" if n % 2 == 0 else "assistant", "content": [m]} for n, m in enumerate(messages)]
    return parse_prompt({"model": "claude-sonnet-4-5", "system": system, "messages": turns, **body})


def size_of(block: Block) -> int:
    """Return the tokens of a block; those of a hidden one are known to this API alone."""
    return HIDDEN.get(block.digest, len(str(block.content.get("text", "")).split()))


HIDDEN: dict[str, int] = {}


@pytest.fixture(autouse=True)
def nothing_hidden() -> None:
    HIDDEN.clear()


@dataclass
class Api:
    """The documented cache over texts whose tokens are their words."""

    minimum: int = 1024
    entries: dict[tuple[Any, ...], int] = field(default_factory=dict)
    sees: Mapping[int, set[int]] = field(default_factory=dict)
    """By request: the earlier ones whose answers had begun; all of them where it is not named."""
    requests: int = 0

    def answer(self, prompt: Prompt) -> Tokens:
        index, self.requests = self.requests, self.requests + 1
        names, ends, total = [], [], 0
        for block in prompt.blocks:
            thinking = str(prompt.options.get("thinking", "")) if block.level == "messages" else ""
            names.append((prompt.model, block.digest, thinking))
            total += size_of(block)
            ends.append(total)
        ttls = [block.ttl for block in prompt.blocks[:-1]] + [prompt.blocks[-1].ttl or prompt.automatic_ttl]
        marks = [(p, ttl) for p, ttl in enumerate(ttls) if ttl and ends[p] >= self.minimum]
        seen = self.sees.get(index, set(range(-1, index)))
        hit = max(
            (
                position
                for mark, _ in marks
                for position in range(max(mark - 19, 0), mark + 1)
                if self.entries.get(tuple(names[: position + 1])) in seen
            ),
            default=-1,
        )
        a = ends[hit] if hit >= 0 else 0
        b = max([ends[p] for p, ttl in marks if p > hit and ttl == "1h"], default=a)
        c = max([ends[p] for p, _ in marks if p > hit], default=a)
        for position, _ in marks:
            self.entries.setdefault(tuple(names[: position + 1]), index)
        return Tokens(total + AFTER - c, c - b, b - a, a, output_tokens=5)


class Words:
    """In proportion to the tokens, but off by a half, as a cheap counter may be."""

    name, exact = "words", False

    def count(self, text: str, family: Family) -> int:
        return round(1.5 * len(text.split()))


class ExactWords(Words):
    """In the API's own tokens."""

    def count(self, text: str, family: Family) -> int:
        return len(text.split())


def record(prompts: Sequence[Prompt], api: Api | None = None) -> list[RecordedTurn]:
    api = api or Api()
    return [RecordedTurn(prompt, api.answer(prompt)) for prompt in prompts]


def parts(was: Prompt, now: Prompt) -> tuple[Part, ...]:
    """The difference by place, as counting would find it."""
    old, new = {b.where: b for b in was.blocks}, {b.where: b for b in now.blocks}
    found = []
    for where in old | new:
        a, b = old.get(where), new.get(where)
        tokens = (size_of(b) if b else 0) - (size_of(a) if a else 0)
        if a is None or b is None or a.digest != b.digest:
            change = "added" if a is None else "removed" if b is None else "changed"
            found.append(Part(where, change, tokens, a, b))  # type: ignore[arg-type]
    return tuple(found)


def current(was: RecordedTurn, prompt: Prompt | None) -> CurrentTurn | None:
    if prompt is None:
        return None
    total = sum(map(size_of, prompt.blocks)) + AFTER
    return CurrentTurn(prompt, total, parts(was.prompt, prompt))


def changed(
    recorded: Sequence[RecordedTurn], prompts: Sequence[Prompt | None], **options: Any
) -> list[Split]:
    now = [current(*each) for each in zip(recorded, prompts, strict=True)]
    return list(resplit(recorded, now, **{"counter": Words(), **options}))


def split(tokens: Tokens | None) -> tuple[int, ...] | None:
    """Read, written for an hour, for five minutes, uncached."""
    if tokens is None:
        return None
    hour, minutes = tokens.ephemeral_1h_input_tokens, tokens.ephemeral_5m_input_tokens
    return tokens.cache_read_input_tokens, hour, minutes, tokens.input_tokens


def agent(
    system: int = 2000,
    name: str = "system",
    mark: Any = MARK,
    rolling: Any = MARK,
    turns: int = 4,
    **body: Any,
) -> list[Prompt]:
    """A loop that marks its system prompt and, as it goes on, its last message."""
    prompts = []
    for turn in range(turns):
        history = [text(100 + n, f"m{n}") for n in range(2 * turn)]
        last = text(100 + 2 * turn, f"m{2 * turn}", rolling)
        prompts.append(ask([text(system, name, mark)], *history, last, **body))
    return prompts


def truth(prompts: Sequence[Prompt | None], api: Api | None = None) -> list[tuple[int, ...] | None]:
    api = api or Api()
    return [None if prompt is None else split(api.answer(prompt)) for prompt in prompts]


def edited(prompts: Sequence[Prompt]) -> list[Prompt]:
    """The first message says something else in every turn after the first."""
    return [
        prompts[0],
        *(
            ask(
                [text(2000, "system", MARK)],
                text(120, "edited"),
                *(dict(b.content) | ({**MARK} if b.ttl else {}) for b in prompt.blocks[2:]),
            )
            for prompt in prompts[1:]
        ),
    ]


class Rough(Words):
    """Takes the words of a question for much longer than they are, as a cheap counter may."""

    def count(self, text: str, family: Family) -> int:
        return round(sum(4.0 if word == "question" else 1.0 for word in text.split()))


@pytest.mark.parametrize("examples", ["in front of it", "in its block"])
@pytest.mark.parametrize("rolling", [MARK, None], ids=["marked", "not marked"])
def test_a_first_read_that_ends_just_before_a_short_question_is_not_of_the_question(
    rolling: Any, examples: str
) -> None:
    """Its end is nearer to the end of the prompt than the size of the system prompt is known by shares."""
    system = [text(2900, "system", MARK)]

    def warm() -> Api:
        api = Api()
        api.answer(ask(system, text(11, "else", rolling)))
        return api

    recorded = record([ask(system, text(9, "question", rolling))], warm())
    assert recorded[0].tokens is not None
    assert recorded[0].tokens.cache_read_input_tokens == recorded[0].tokens.prompt_tokens - 9 - AFTER
    if examples == "in front of it":
        content = [text(963, "example"), text(9, "question", rolling)]
    else:
        both = f"{words(963, 'example')} {words(9, 'question')}"
        content = [{"type": "text", "text": both, **(rolling or {})}]
    message = {"role": "user", "content": content}
    now = parse_prompt({"model": "claude-sonnet-4-5", "system": system, "messages": [message]})
    (found,) = resplit(recorded, [current(recorded[0], now)], counter=Rough())
    assert split(found.tokens) == split(warm().answer(now))


def test_what_was_called_later_has_the_start_of_the_recording() -> None:
    """The last turn asks something else, and was called on a cold cache beside turns that were warm."""
    prompts = agent()
    warm = Api()
    warm.answer(prompts[0])
    first = record(prompts[:3], warm)
    history = [text(100 + n, f"m{n}") for n in range(6)]
    other = ask([text(2000, "system", MARK)], *history, text(116, "other", MARK))
    later = replace(record([other])[0], is_later=True)
    assert split(later.tokens) == (0, 0, 2731, AFTER)
    whole = from_one_start([*first, later], minimums={}, counter=Words())
    assert [split(tokens) for tokens in whole] == [
        *(split(turn.tokens) for turn in first),
        split(warm.answer(other)),
    ]
    alone = from_one_start(first, minimums={}, counter=Words())
    assert list(alone) == [turn.tokens for turn in first]


THINKING = {"thinking": {"type": "enabled", "budget_tokens": 1024}}
CHANGES: dict[str, tuple[list[Prompt], list[Prompt | None]]] = {
    "the system prompt grew": (agent(), [*agent(2100, "other")]),
    "the system prompt shrank": (agent(), [*agent(1900, "other")]),
    "the system prompt differs on every turn": (
        agent(),
        [agent(2000, f"now{turn}")[turn] for turn in range(4)],
    ),
    "the marks are gone": (agent(), [*agent(mark=None, rolling=None)]),
    "the system mark is gone": (agent(), [*agent(mark=None)]),
    "only the system prompt stays marked": (agent(), [*agent(rolling=None)]),
    "the marks are new": (agent(mark=None, rolling=None), [*agent()]),
    "an hour instead": (agent(), [*agent(mark=HOUR)]),
    "the prompt fell below the minimum": (agent(1100, rolling=None), [*agent(700, "other", rolling=None)]),
    "the prompt passed the minimum": (agent(900, rolling=None), [*agent(1100, "other", rolling=None)]),
    "the first turn is not asked any more": (agent(), [None, *agent()[1:]]),
    "the second turn is not asked any more": (agent(), [agent()[0], None, *agent()[2:]]),
    "one turn thinks": (agent(), [*agent()[:2], agent(**THINKING)[2], agent()[3]]),
    "the first message is edited in later turns": (agent(), [*edited(agent())]),
    "the history is cut": (agent(), [*agent()[:3], agent()[1]]),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_run_is_split_as_the_api_would(change: str) -> None:
    before, now = CHANGES[change]
    splits = changed(record(before), now)
    for one, expected in zip(splits, truth(now), strict=True):
        found = split(one.tokens)
        assert (found is None) is (expected is None)
        if found is not None and expected is not None:
            assert sum(found) == sum(expected)
            assert [bool(part) for part in found] == [bool(part) for part in expected]
            assert found == pytest.approx(expected, abs=3)


def test_an_unchanged_run_keeps_its_numbers_and_is_not_simulated() -> None:
    recorded = record(agent())
    assert changed(recorded, agent()) == [Split(turn.tokens) for turn in recorded]


def test_streaming_is_no_change() -> None:
    recorded = record(agent())
    streamed = [replace(prompt, stream=True) for prompt in agent()]
    assert [one.now for one in changed(recorded, streamed)] == [None] * 4


def test_an_unchanged_turn_whose_prefix_is_no_longer_written_is_told_right() -> None:
    one = ask([text(2000, "system", MARK)], text(10, "one"))
    two = ask([text(2000, "system", MARK)], text(20, "two"))
    recorded = record([one, two])
    assert split(recorded[1].tokens) == (2000, 0, 0, 23)
    other = ask([text(2000, "other", MARK)], text(10, "one"))
    assert [split(each.tokens) for each in changed(recorded, [other, two])] == [
        (0, 0, 2000, 13),
        (0, 0, 2000, 23),
    ]


def test_turns_before_the_first_change_stay_as_recorded_whatever_they_say() -> None:
    recorded = record(agent())
    odd = replace(recorded[0], tokens=Tokens(7, 1, 2, 2093, 5))
    splits = changed([odd, *recorded[1:]], [*agent()[:3], agent(2000, "other")[3]])
    assert splits[0].tokens == odd.tokens


# -- what a recording shows of its cache --------------------------------------------------------------------


def test_a_warm_start_is_the_initial_state() -> None:
    api = Api()
    record(agent()[:1], api)
    recorded = record(agent(), api)
    assert split(recorded[0].tokens) == (2100, 0, 0, 3)
    longer = [replace_last(prompt) for prompt in agent()]
    per_process = changed(recorded, longer, lasting=lambda _: False)
    assert split(per_process[0].tokens) == pytest.approx((2000, 0, 110, 3), abs=3)
    other = changed(recorded, [*agent(2000, "other")], lasting=lambda _: False)
    assert [split(one.tokens) for one in other][:2] == [(0, 0, 2100, 3), (2100, 0, 203, 3)]


def test_a_prefix_that_was_warm_stays_warm_when_every_process_sends_the_changed_one() -> None:
    api = Api()
    record(agent()[:1], api)
    recorded = record(agent(), api)
    now = agent(2200, "other")
    warm = Api()
    record(now[:1], warm)
    assert [split(one.tokens) for one in changed(recorded, now)] == truth(now, warm)


@pytest.mark.parametrize(
    ("rules", "lasting", "warm"),
    [("rules", True, True), ("rules", False, True), ("others", True, True), ("others", False, False)],
)
def test_what_was_warm_before_a_turn_that_is_gone_is_warm_for_those_that_read_it(
    rules: str, lasting: bool, warm: bool
) -> None:
    """A subagent less: what it read first is read by the next, unless every process sends another text."""

    def subagents(name: str) -> list[Prompt]:
        return [ask([text(2000, name, MARK)], text(20, question)) for question in ("one", "two", "three")]

    api, steady = Api(), Api()
    record(subagents("rules")[:1], api)
    recorded = record(subagents("rules"), api)
    _, two, three = subagents(rules)
    record([three] if warm else [], steady)
    splits = changed(recorded, [None, two, three], lasting=lambda _: lasting)
    assert [split(one.tokens) for one in splits] == truth([None, two, three], steady)


def of_a_conversation(words: str, *, system: int, first: int, name: str = "rules") -> list[Prompt]:
    """Two turns whose shared text stands in the system prompt, or before the question."""
    heads = [text(system, name, MARK)] if system else []
    rules = [text(first, name, MARK)] if first else []
    opening = {"role": "user", "content": [*rules, text(20, words)]}
    said, asked = ({"role": role, "content": [text(7, role)]} for role in ("assistant", "user"))
    whole = {"model": "claude-sonnet-4-5", "system": heads}
    return [parse_prompt({**whole, "messages": [opening, *more]}) for more in ([], [said, asked])]


@pytest.mark.parametrize("name", ["rules", "other"], ids=["as it was", "reworded"])
@pytest.mark.parametrize(("system", "first"), [(0, 2000), (2000, 0)], ids=["into a message", "out of one"])
def test_a_warm_prefix_stays_warm_where_its_text_moves_with_its_mark(
    system: int, first: int, name: str
) -> None:
    """Another conversation over the same text had just begun; that of the changed agent has the new text."""
    api, warm = Api(), Api()
    record(of_a_conversation("elsewhere", system=first, first=system), api)
    recorded = record(of_a_conversation("here", system=first, first=system), api)
    assert split(recorded[0].tokens) == (2000, 0, 0, 23)
    now = of_a_conversation("here", system=system, first=first, name=name)
    record(of_a_conversation("elsewhere", system=system, first=first, name=name), warm)
    assert [split(one.tokens) for one in changed(recorded, now)] == truth(now, warm)


@pytest.mark.parametrize(("system", "first"), [(0, 2000), (2000, 0)])
def test_a_warm_conversation_stays_warm_where_its_system_prompt_moves(system: int, first: int) -> None:
    """Somebody recorded twice in a row, so that the conversation itself was read."""

    def rolling(system: int, first: int) -> list[Prompt]:
        asked = of_a_conversation("here", system=system, first=first)
        return [replace(p, blocks=(*p.blocks[:-1], replace(p.blocks[-1], ttl="5m"))) for p in asked]

    api, warm = Api(), Api()
    record(rolling(first, system), api)
    recorded = record(rolling(first, system), api)
    record(rolling(system, first), warm)
    now = rolling(system, first)
    assert [split(one.tokens) for one in changed(recorded, now)] == truth(now, warm)


@pytest.mark.parametrize(("system", "first"), [(0, 2000), (2000, 0)])
def test_a_warm_prefix_is_cold_where_its_text_moves_without_its_mark(system: int, first: int) -> None:
    api = Api()
    record(of_a_conversation("elsewhere", system=first, first=system), api)
    recorded = record(of_a_conversation("here", system=first, first=system), api)
    now = [
        replace(prompt, blocks=tuple(replace(block, ttl=None) for block in prompt.blocks))
        for prompt in of_a_conversation("here", system=system, first=first)
    ]
    assert {split(one.tokens)[0] for one in changed(recorded, now)} == {0}


def test_a_prefix_that_got_shorter_than_the_minimum_was_never_warm() -> None:
    api = Api()
    record(agent()[:1], api)
    recorded = record(agent(), api)
    now = agent(500, "other")
    warm = Api()
    record(now[:1], warm)
    assert [split(one.tokens) for one in changed(recorded, now)] == truth(now, warm)


def test_a_prefix_that_lost_its_mark_is_cold() -> None:
    api = Api()
    record(agent()[:1], api)
    recorded = record(agent(), api)
    unmarked = [replace(p, blocks=tuple(replace(b, ttl=None) for b in p.blocks)) for p in agent()]
    assert {split(one.tokens)[0] for one in changed(recorded, unmarked)} == {0}


def marked_second(first: int, mark: Mapping[str, Any] | None = None) -> list[Prompt]:
    """A handbook with a mark and what is of today, behind `first` words that are new."""
    new = [text(first, "new", mark)] if first else []
    heads = [*new, text(2000, "handbook", MARK), text(30, "today")]
    return [ask(heads, text(20 + turn, f"q{turn}")) for turn in range(3)]


@pytest.mark.parametrize("mark", [None, MARK], ids=["unmarked", "marked"])
def test_a_warm_prefix_stays_warm_where_a_block_comes_before_it(mark: Mapping[str, Any] | None) -> None:
    """Its mark stands at another place of the level now."""
    api, warm = Api(), Api()
    record(marked_second(0)[2:], api)
    recorded = record(marked_second(0)[:2], api)
    assert split(recorded[0].tokens) == (2000, 0, 0, 53)
    record(marked_second(100, mark)[2:], warm)
    now = marked_second(100, mark)[:2]
    assert [split(one.tokens) for one in changed(recorded, now)] == truth(now, warm)


def test_a_warm_context_that_is_gone_does_not_make_the_question_warm() -> None:
    """The question stands at its place now, with the mark of the conversation."""

    def asked(context: int, question: str) -> Prompt:
        given = [text(context, "context", MARK)] if context else []
        message = {"role": "user", "content": [*given, text(300, question, MARK)]}
        heads = [text(1500, "system", MARK)]
        return parse_prompt({"model": "claude-sonnet-4-5", "system": heads, "messages": [message]})

    api, warm = Api(), Api()
    record([asked(400, "elsewhere")], api)
    recorded = record([asked(400, "here")], api)
    assert split(recorded[0].tokens) == (1900, 0, 300, 3)
    record([asked(0, "elsewhere")], warm)
    now = [asked(0, "here")]
    assert split(changed(recorded, now)[0].tokens) == pytest.approx(truth(now, warm)[0], abs=3)


def test_warm_blocks_that_change_places_stay_warm() -> None:
    """The first of them is too short to be cached by itself now."""

    def asked(names: str, words: str) -> list[Prompt]:
        sizes = {"a": 300, "b": 900}
        heads = [text(sizes[name], name, MARK) for name in names]
        return [ask(heads, text(20, words), text(9, "said"), text(7, "on"))]

    api, warm = Api(), Api()
    record(asked("ab", "elsewhere"), api)
    recorded = record(asked("ab", "here"), api)
    record(asked("ba", "elsewhere"), warm)
    now = asked("ba", "here")
    assert [split(one.tokens) for one in changed(recorded, now)] == truth(now, warm)


def test_a_prefix_that_lost_its_mark_is_cold_for_the_marks_behind_it() -> None:
    """Another conversation over the system prompt had begun: now nobody writes what they share."""
    api, cold = Api(), Api()
    for server, mark in ((api, MARK), (cold, None)):
        record([ask([text(2000, "system", mark)], text(50, "elsewhere", MARK))], server)
    recorded = record(agent(), api)
    assert split(recorded[0].tokens) == (2000, 0, 100, 3)
    unmarked = agent(mark=None)
    assert [split(one.tokens) for one in changed(recorded, unmarked)] == truth(unmarked, cold)


def replace_last(prompt: Prompt) -> Prompt:
    """The last message is ten words longer and of other words."""
    *history, last = (dict(block.content) | ({**MARK} if block.ttl else {}) for block in prompt.blocks[1:])
    return ask([text(2000, "system", MARK)], *history, text(len(last["text"].split()) + 10, "longer", MARK))


def test_concurrent_first_calls_write_on_both_sides() -> None:
    prompts = [ask([text(2000, "system", MARK)], text(10 + n, f"m{n}", MARK)) for n in range(3)]
    now = [ask([text(2100, "other", MARK)], text(10 + n, f"m{n}", MARK)) for n in range(3)]
    sees = {0: set(), 1: set(), 2: {0, 1}}
    recorded = record(prompts, Api(sees=sees))
    assert [split(turn.tokens)[0] for turn in recorded] == [0, 0, 2000]
    found = [split(one.tokens) for one in changed(recorded, now)]
    assert found == truth(now, Api(sees=sees))


def test_concurrent_calls_that_find_nothing_all_write_by_their_times() -> None:
    """The recording was warm and shows nothing of it, but it has the times at which its calls were made."""
    prompts = [ask([text(2000, "system", MARK)], text(10, f"m{n}")) for n in range(4)]
    now = [ask([text(2000, "clock", MARK)], text(10, f"m{n}")) for n in range(4)]
    api = Api()
    record(prompts[:1], api)
    recorded = [
        replace(turn, sent=START + timedelta(seconds=sent), began=START + timedelta(seconds=sent + 5))
        for turn, sent in zip(record(prompts, api), (0, 1, 2, 20), strict=True)
    ]
    assert [split(turn.tokens) for turn in recorded] == [(2000, 0, 0, 13)] * 4
    found = changed(recorded, [*now], lasting=lambda _: False)
    assert [split(one.tokens) for one in found] == [(0, 0, 2000, 13)] * 3 + [(2000, 0, 0, 13)]


def test_lifetimes_follow_the_recorded_dates() -> None:
    prompts = agent(turns=2)
    recorded = [
        replace(turn, began=START + timedelta(seconds=seconds))
        for turn, seconds in zip(record(prompts), (0, 400), strict=True)
    ]
    outlived = changed(recorded, [*agent(2100, "other", turns=2)])
    assert split(outlived[1].tokens) == (2200, 0, 203, 3), "as recorded, it outlives its time"
    expired = [recorded[0], replace(recorded[1], tokens=Tokens(3, 2303, 0, 0, 5))]
    found = changed(expired, [*agent(2100, "other", turns=2)])
    assert split(found[1].tokens) == (0, 0, 2403, 3)
    hour = changed(expired, [*agent(2100, "other", mark=HOUR, rolling=HOUR, turns=2)])
    assert split(hour[1].tokens) == (2200, 203, 0, 3)


def test_a_parameter_that_the_recording_shows_to_cost_nothing_costs_nothing_now() -> None:
    """The documented table is not the last word: what was read under another parameter is read again."""
    forced = {"tool_choice": {"type": "any"}, "tools": [{"name": "t"}]}
    prompts = [agent(tools=[{"name": "t"}])[0], *agent(**forced)[1:]]
    now = [agent(2100, "other", tools=[{"name": "t"}])[0], *agent(2100, "other", **forced)[1:]]
    found = changed(record(prompts), [*now])
    assert [split(one.tokens) for one in found] == truth(now)


def test_a_recording_that_never_cached_stays_so() -> None:
    """A gateway that drops cache_control, or does not report it."""
    recorded = [replace(t, tokens=Tokens(t.tokens.prompt_tokens)) for t in record(agent(5000)) if t.tokens]
    assert split(changed(recorded, [*agent(5100, "other")])[0].tokens) == (0, 0, 0, 5203)


def test_a_recording_shows_a_higher_minimum() -> None:
    recorded = record(agent(1500, rolling=None), Api(minimum=2048))
    assert split(changed(recorded, [*agent(1600, "other", rolling=None)])[0].tokens) == (0, 0, 0, 1703)
    assert split(changed(recorded, [*agent(2100, "other", rolling=None)])[0].tokens) == pytest.approx(
        (0, 0, 2100, 103), abs=3
    )


def test_a_recording_shows_a_lower_minimum() -> None:
    recorded = record(agent(700, rolling=None), Api(minimum=512))
    assert split(recorded[0].tokens) == (0, 0, 700, 103)
    assert split(changed(recorded, [*agent(800, "other", rolling=None)])[0].tokens) == (0, 0, 800, 103)


def test_minimums_can_be_set() -> None:
    recorded = record(agent(mark=None, rolling=None))
    found = changed(recorded, [*agent(rolling=None)], minimums={"claude-sonnet-4-5": 4096})
    assert split(found[0].tokens) == (0, 0, 0, 2103)


# -- what the request does not show -------------------------------------------------------------------------

PDF = {"type": "document", "source": {"type": "base64", "media_type": "application/pdf", "data": "x"}}
UNSEEN: dict[str, dict[str, Any]] = {
    "web search": {"tools": [{"type": "web_search_20250305", "name": "web_search"}]},
    "code execution": {"tools": [{"type": "code_execution_20250825", "name": "code_execution"}]},
    "an MCP toolset": {
        "mcp_servers": [{"name": "files"}],
        "tools": [{"type": "mcp_toolset", "mcp_server_name": "files"}],
    },
    "MCP servers without a toolset": {"mcp_servers": [{"name": "files"}]},
    "a PDF": {"content": PDF},
    "a file": {"content": {"type": "document", "source": {"type": "file", "file_id": "file_1"}}},
    "an image by URL": {"content": {"type": "image", "source": {"type": "url", "url": "https://a/b"}}},
    "an image file": {"content": {"type": "image", "source": {"type": "file", "file_id": "file_1"}}},
    "a PDF in a result": {"content": {"type": "tool_result", "tool_use_id": "t", "content": [PDF]}},
}


def unseen(kind: str, system: str, question: str = "question", size: int = 700) -> Prompt:
    """Return a prompt with something of hidden size, in front of a question."""
    body = dict(UNSEEN[kind])
    content = [body.pop("content", text(30, "hello")), text(50, "rules", MARK)]
    said = [{"role": "user", "content": content}, {"role": "user", "content": [text(100, question, MARK)]}]
    prompt = parse_prompt(
        {"model": "claude-sonnet-4-5", "system": [text(2000, system, MARK)], "messages": said, **body}
    )
    hidden = prompt.blocks[0] if prompt.level("tools") else prompt.level("messages")[0]
    HIDDEN[hidden.digest] = size
    return prompt


@pytest.mark.parametrize("kind", UNSEEN)
def test_what_cannot_be_counted_is_a_block_like_any_other(kind: str) -> None:
    recorded = record([unseen(kind, "system")] * 3)
    clock = [unseen(kind, f"now{turn}") for turn in range(3)]
    found = changed(recorded, [*clock])
    assert [one.note for one in found] == [None] * 3
    assert [split(one.tokens) for one in found] == truth(clock)
    assert all(one.tokens and not one.tokens.cache_read_input_tokens for one in found)


@pytest.mark.parametrize("kind", [kind for kind in UNSEEN if kind != "MCP servers without a toolset"])
def test_one_hidden_size_is_what_the_others_leave(kind: str) -> None:
    """No answer tells the size of the prefix that is read now: it ends after the hidden block."""
    recorded = record([unseen(kind, "system")] * 2)
    asked = [unseen(kind, "system"), unseen(kind, "system", "another")]
    found = changed(recorded, [*asked])
    assert [one.note for one in found] == [None] * 2
    for one, expected in zip(found, truth(asked), strict=True):
        assert split(one.tokens) == pytest.approx(
            expected, abs=0.5 * 180
        )  # texts are counted by half too long


def two_hidden(question: str) -> Prompt:
    """Return a prompt with a breakpoint between two blocks of hidden size."""
    first = {"type": "document", "source": {"type": "file", "file_id": "first"}}
    second = {"type": "document", "source": {"type": "file", "file_id": "second"}}
    content = [first, text(10, "rules", MARK), second, text(10, question, MARK)]
    prompt = parse_prompt(
        {
            "model": "claude-sonnet-4-5",
            "system": [text(2000, "system")],
            "messages": [{"role": "user", "content": content}],
        }
    )
    HIDDEN.update({prompt.blocks[1].digest: 900, prompt.blocks[3].digest: 400})
    return prompt


def test_several_hidden_sizes_are_bounded_together() -> None:
    recorded = record([two_hidden("one"), two_hidden("one")])
    asked = [two_hidden("one"), replace_second(two_hidden("one"))]
    (_, found) = changed(recorded, [*asked], counter=ExactWords())
    (_, expected) = truth(asked)
    assert found.tokens is not None
    assert found.best is not None
    assert expected is not None
    assert found.note is not None
    assert found.note.startswith("2 blocks of its prompt have no known size (messages[0].content[0]: ")
    assert found.tokens.cache_read_input_tokens < expected[0] == 2910 < found.best.cache_read_input_tokens
    assert found.tokens.prompt_tokens == found.best.prompt_tokens == sum(expected)


def replace_second(prompt: Prompt) -> Prompt:
    """Return the prompt with another text of the same length in front of its second document."""
    blocks = list(prompt.blocks)
    other = parse_prompt({"model": "m", "messages": [{"role": "user", "content": [text(10, "other")]}]})
    blocks.insert(3, replace(other.blocks[0], where="messages[0].content[2]"))
    return replace(prompt, blocks=tuple(blocks))


def test_several_hidden_sizes_are_no_matter_where_nothing_is_read() -> None:
    recorded = record([two_hidden("one"), two_hidden("one")])
    asked = [replace(prompt, model="claude-opus-4-5") for prompt in (two_hidden("one"), two_hidden("two"))]
    assert changed(recorded[:1], [asked[0]])[0].best is None


# -- what cannot be told ------------------------------------------------------------------------------------

SERVED = "the API ran tools of its own for the recorded answer, and billed several prompts"


def searched(turns: int = 2) -> list[RecordedTurn]:
    """Record turns of which the last searched the web, so that its answer billed two prompts."""
    recorded = record(agent(turns=turns))
    last = recorded[-1].tokens
    assert last is not None
    billed = Tokens(3, 203, 0, 2200 + 2303 + 100, 9)
    return [*recorded[:-1], replace(recorded[-1], tokens=billed, worked=SERVED)]


def beside_searched(first: Prompt) -> Split:
    """Split the searched turn, which asks what it asked, after a first turn that asks something else."""
    recorded = searched()
    billed = recorded[1].tokens
    assert billed is not None
    now = [current(recorded[0], first), CurrentTurn(recorded[1].prompt, billed.prompt_tokens)]
    return resplit(recorded, now, counter=Words())[1]


def test_an_answer_with_several_prompts_stands_while_its_prefix_is_read() -> None:
    first = agent()[0]
    longer = replace(first, stop_sequences=("END",), options={"tool_choice": {"type": "auto"}})
    assert beside_searched(longer) == replace(beside_searched(longer), tokens=searched()[1].tokens, note=None)
    assert beside_searched(longer).best is None


def test_an_answer_with_several_prompts_is_bounded_where_its_prefix_may_be_lost() -> None:
    found = beside_searched(agent(2000, "other")[0])
    assert (found.note, found.best) == (SERVED, searched()[1].tokens)
    assert split(found.tokens) == (0, 0, 203 + 4603, 3), "never the recorded reads of what changed"


def test_a_pdf_without_any_cache_needs_no_simulation() -> None:
    plain = [ask([text(2000, "system")], PDF)]
    (found,) = changed(record(plain), [ask([text(2100, "other")], PDF)])
    assert (split(found.tokens), found.note) == ((0, 0, 0, 2103), None)


def test_a_cache_that_the_request_does_not_ask_for_is_not_explained() -> None:
    recorded = [RecordedTurn(agent(mark=None, rolling=None)[0], Tokens(100, 5, 0, 1998, 5))]
    (found,) = changed(recorded, [agent(2010, "other", mark=None, rolling=None)[0]])
    assert found.note == "the recorded answer reports a cache that the request does not ask for"
    assert split(found.best) == (1998, 0, 5, 110)
    assert split(found.tokens) == (0, 0, 2003, 110)


def test_more_breakpoints_than_the_api_takes() -> None:
    plain = ask([text(2000, "s")], *(text(10, f"m{n}") for n in range(5)))
    marked = ask([text(2000, "s")], *(text(10, f"m{n}", MARK) for n in range(5)))
    (found,) = changed(record([plain]), [marked])
    assert found.note == "5 cache breakpoints are set, and at most 4 are taken"


def test_unknown_prompt_tokens_leave_the_recorded_ones_and_the_later_turns_are_still_told() -> None:
    recorded = record(agent())
    now = [current(*each) for each in zip(recorded, agent(2100, "other"), strict=True)]
    assert now[1] is not None
    now[1] = replace(now[1], prompt_tokens=None)
    splits = resplit(recorded, now, counter=Words())
    assert splits[1].tokens == recorded[1].tokens
    assert split(splits[2].tokens) == (2403, 0, 207, 3)


@pytest.mark.parametrize(
    "told", [None, Tokens()], ids=["an aborted stream", "a refusal, which is not billed"]
)
def test_an_answer_that_tells_nothing_still_has_a_place_in_the_cache(told: Tokens | None) -> None:
    recorded = record(agent())
    recorded[0] = replace(recorded[0], tokens=told)
    splits = changed(recorded, [*agent(2100, "other")])
    assert split(splits[1].tokens) == (2200, 0, 203, 3)


# -- whatever changes ---------------------------------------------------------------------------------------


@st.composite
def runs(draw: st.DrawFn) -> tuple[list[RecordedTurn], list[Prompt | None]]:
    """A recorded run, perhaps with a split that the cache does not explain, and the same run edited."""
    mark = st.sampled_from([None, MARK])

    def conversation() -> list[Prompt]:
        system = text(draw(st.sampled_from([600, 1500, 3000])), draw(st.sampled_from("ab")), draw(mark))
        said = [
            text(draw(st.integers(1, 400)), draw(st.sampled_from("cde")), draw(mark))
            for _ in range(draw(st.integers(1, 3)))
        ]
        return [ask([system], *said[: n + 1]) for n in range(len(said))]

    before = [prompt for _ in range(draw(st.integers(1, 2))) for prompt in conversation()]
    recorded = record(before)
    if draw(st.booleans()):
        at = draw(st.integers(0, len(before) - 1))
        tokens = recorded[at].tokens
        assert tokens is not None
        read = draw(st.integers(0, tokens.prompt_tokens))
        recorded[at] = replace(recorded[at], tokens=Tokens(tokens.prompt_tokens - read, 0, 0, read, 5))
    now: list[Prompt | None] = list(before)
    for _ in range(draw(st.integers(0, 2))):
        other = conversation()
        now[draw(st.integers(0, len(now) - 1))] = draw(st.sampled_from([None, *other]))
    return recorded, now


@given(runs())
def test_totals_are_kept_and_nothing_is_negative(run: tuple[list[RecordedTurn], list[Prompt | None]]) -> None:
    recorded, now = run
    changed_yet = False
    for was, prompt, found in zip(recorded, now, changed(recorded, now), strict=True):
        changed_yet = changed_yet or prompt != was.prompt
        if prompt is None:
            assert found.tokens is None
            continue
        assert found.tokens is not None
        assert found.tokens.prompt_tokens == sum(map(size_of, prompt.blocks)) + AFTER
        assert found.tokens.output_tokens == 5
        assert min(split(found.tokens) or ()) >= 0
        if not changed_yet:
            assert found.tokens == was.tokens


def test_what_the_recording_shows_as_cached_is_long_enough() -> None:
    """Its first turn caches nothing, as if it were too short; its second one reads just that."""
    said = [text(148, "c", MARK), text(400, "c", MARK)]
    asked = [ask([text(1500, "a")], *said[:number]) for number in (1, 2)]
    recorded = record([ask([text(3000, "z", MARK)], text(50, "z", MARK)), *asked])
    recorded[1] = replace(recorded[1], tokens=Tokens(1651, 0, 0, 0, 5))
    assert split(recorded[2].tokens) == (1648, 0, 400, 3)
    splits = changed(recorded, [ask([text(3100, "y", MARK)], text(50, "y", MARK)), *asked])
    assert [(one.tokens, one.note) for one in splits[1:]] == [(turn.tokens, None) for turn in recorded[1:]]


@given(runs())
def test_asking_the_same_again_after_a_detour_gives_the_same(
    run: tuple[list[RecordedTurn], list[Prompt | None]],
) -> None:
    """An unchanged turn whose surroundings changed without touching its prefix stays as recorded."""
    recorded, _ = run
    elsewhere = ask([text(3000, "z", MARK)], text(50, "z", MARK))
    extra = record([elsewhere])
    now: list[Prompt | None] = [ask([text(3100, "y", MARK)], text(50, "y", MARK))]
    splits = changed([*extra, *recorded], [*now, *(turn.prompt for turn in recorded)])
    assert [one.tokens for one in splits[1:] if one.note is None] == [
        turn.tokens for turn, one in zip(recorded, splits[1:], strict=True) if one.note is None
    ]
