"""Pairing: what changes harmlessly finds its recorded answer; what took another shape is told."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable
from typing import Any

import pytest
from conversations import (
    OVERLOADED,
    POLICY,
    TOOLS,
    Agent,
    Body,
    Change,
    body,
    is_faithful,
    play,
    record,
    recording,
    replay,
    request,
    result,
    said,
    text,
    tool_use,
    user,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_tokenbudget.model import Paired
from pytest_tokenbudget.wire.exchange import Answer

# --- Subagents in any interleaving --------------------------------------------------------------------------

SUBAGENTS, TURNS = 8, 6


def unchanged(sent: Body, agent: Agent) -> Body:
    return sent


def more_system(sent: Body, agent: Agent) -> Body:
    return {**sent, "system": sent["system"] + "Never promise a date that you did not look up. " * 3}


def reworded(sent: Body, agent: Agent) -> Body:
    """The first message, by a third."""
    sent = copy.deepcopy(more_system(sent, agent))
    first = sent["messages"][0]
    first["content"] = (
        first["content"]
        .replace("Please find out for customer", "Kindly tell our client")
        .replace("and whether the voucher", "and also if the coupon")
    )
    return sent


def reworded_everywhere(sent: Body, agent: Agent) -> Body:
    sent = reworded(sent, agent)
    for message in sent["messages"]:
        if isinstance(message["content"], str):
            message["content"] = message["content"].replace("go on with it", "continue now")
    return sent


def streamed(sent: Body, agent: Agent) -> Body:
    return {**reworded(sent, agent), "stream": True}


def other_model(sent: Body, agent: Agent) -> Body:
    return {**sent, "model": "claude-haiku-4-5"}


def cached(sent: Body, agent: Agent) -> Body:
    """A cache marker on the last message, which moves with every turn."""
    sent = copy.deepcopy(sent)
    last = sent["messages"][-1]
    if isinstance(last["content"], str):
        last["content"] = [{"type": "text", "text": last["content"]}]
    last["content"][-1]["cache_control"] = {"type": "ephemeral"}
    return sent


def other_tools(sent: Body, agent: Agent) -> Body:
    tool = {
        "name": "cancel",
        "description": "Cancel an order, if that is still possible.",
        "input_schema": {},
    }
    return {**sent, "tools": [tool, {**TOOLS[0], "description": "Finds orders."}]}


def last_five(sent: Body, agent: Agent) -> Body:
    return {**more_system(sent, agent), "messages": sent["messages"][-5:]}


def last_three(sent: Body, agent: Agent) -> Body:
    return {**more_system(sent, agent), "messages": sent["messages"][-3:]}


def summarised(sent: Body, agent: Agent) -> Body:
    """From the fifth turn on, a summary instead of all but the last answer and what is said to it."""
    if len(sent["messages"]) < 9:
        return more_system(sent, agent)
    summary = user(f"In short: errand {agent.number} is under way and some facts are known.")
    return {**more_system(sent, agent), "messages": [summary, *sent["messages"][-2:]]}


def with_examples(sent: Body, agent: Agent) -> Body:
    examples = [user("When does order 1 leave?"), said("OK"), user("Who delivers order 2?"), said("Our van.")]
    return {**sent, "messages": examples + sent["messages"]}


def other_results(sent: Body, agent: Agent) -> Body:
    sent = copy.deepcopy(sent)
    for message in sent["messages"]:
        for block in message["content"] if isinstance(message["content"], list) else ():
            if block["type"] == "tool_result":
                block["content"] = "See below. " * 30 + block["content"].upper()
    return sent


def own_system(sent: Body, agent: Agent) -> Body:
    """Agents that differ in nothing but their system prompt."""
    return {**sent, "system": f"You are specialist {agent.number} for parcels. {POLICY}"}


CHANGES: list[Change] = [
    unchanged,
    more_system,
    reworded,
    reworded_everywhere,
    streamed,
    other_model,
    cached,
    other_tools,
    last_five,
    last_three,
    summarised,
    with_examples,
    other_results,
]


def ok(agent: int, turn: int) -> Answer:
    return text("OK")


def with_tools(agent: int, turn: int) -> Answer:
    return text("Done.") if turn == TURNS - 1 else tool_use(f"toolu_{agent}_{turn}", "Let me see.")


def with_texts(agent: int, turn: int) -> Answer:
    return text(
        f"For errand {agent} I have now found out the fact that belongs to step {turn}; please go on."
    )


def team(answer: Callable[[int, int], Answer], change: Change = unchanged, **more: Any) -> list[Agent]:
    return [Agent(number, TURNS, answer, change, **more) for number in range(SUBAGENTS)]


@pytest.mark.parametrize("answer", [ok, with_tools, with_texts])
@pytest.mark.parametrize("change", CHANGES)
def test_subagents_get_their_own_answers_in_any_interleaving(
    change: Change, answer: Callable[[int, int], Answer]
) -> None:
    recorded, places = record(team(answer), random.Random(0))
    for seed in range(20):
        again = recording(*((e.request, e.answer) for e in recorded.exchanges))
        matches = replay(again, team(answer, change), random.Random(1 + seed))
        wrong = {turn for turn, match in matches.items() if match is None or match.index != places[turn]}
        assert not wrong
        assert is_faithful(again)
        if change is unchanged:
            assert {pair.how for pair in again.pairs} == {Paired.EXACT}


def test_subagents_that_differ_in_their_system_prompt_only() -> None:
    def more(sent: Body, agent: Agent) -> Body:
        return more_system(own_system(sent, agent), agent)

    class Same(Agent):
        def opens(self) -> str:
            return "Here is the parcel list. Check it."

    def same(change: Change) -> list[Agent]:
        return [Same(n, TURNS, ok, change, say=lambda _, turn: f"Go on, {turn}.") for n in range(SUBAGENTS)]

    recorded, places = record(same(own_system), random.Random(0))
    for seed in range(20):
        again = recording(*((e.request, e.answer) for e in recorded.exchanges))
        matches = replay(again, same(more), random.Random(1 + seed))
        assert {turn: match and match.index for turn, match in matches.items()} == places
        assert is_faithful(again)


@settings(deadline=None, max_examples=50)
@given(
    agents=st.integers(1, 5),
    turns=st.integers(1, 5),
    answer=st.sampled_from([ok, with_tools, with_texts]),
    seeds=st.tuples(st.integers(0, 10**6), st.integers(0, 10**6)),
)
def test_the_same_run_in_any_order_is_exact(
    agents: int, turns: int, answer: Callable[[int, int], Answer], seeds: tuple[int, int]
) -> None:
    def crew() -> list[Agent]:
        return [Agent(number, turns, answer) for number in range(agents)]

    recorded, places = record(crew(), random.Random(seeds[0]))
    matches = replay(recorded, crew(), random.Random(seeds[1]))
    assert {turn: match and (match.index, match.how) for turn, match in matches.items()} == {
        turn: (index, Paired.EXACT) for turn, index in places.items()
    }
    assert is_faithful(recorded)
