"""More turns, fewer, of another shape, in a loop, on another model: told as such."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from pytest_tokenbudget.budget.verdict import Starts
from pytest_tokenbudget.diagnosis.turns import recorded_anew
from pytest_tokenbudget.metering.meter import Run
from pytest_tokenbudget.model import Finding, Rate, Tokens, Usage
from pytest_tokenbudget.sources import SourceTree
from support.blocks import user
from support.changes import adds_up
from support.seeded import (
    MODEL,
    PASSAGES,
    Agent,
    Body,
    Step,
    cost,
    findings,
    record,
    replay,
    request,
    result,
    subagents,
    support_agent,
)


def told(bodies: Sequence[Body], agent: Agent | None = None) -> list[Finding]:
    """The findings of an agent that sends `bodies` where the support agent was recorded."""
    recorded = agent or support_agent()
    run = replay(record(recorded.bodies(), recorded.answers()), bodies)
    found = findings(run)
    adds_up(run, found)
    return list(found)


def continued(body: Body, *messages: Any) -> Body:
    longer = copy.deepcopy(body)
    longer["messages"] += messages
    return longer


def calls(id_: str, name: str, **arguments: str) -> Body:
    use = {"type": "tool_use", "id": id_, "name": name, "input": arguments}
    return {"role": "assistant", "content": [use]}


BODIES = support_agent().bodies()
SAID = {"role": "assistant", "content": "Tighten it to 12 newton metres."}


def test_a_turn_more() -> None:
    (found,) = told([*BODIES, continued(BODIES[-1], SAID, user("Check your answer once more."))])
    assert (found.kind, found.where) == ("turns_changed", "added")
    assert "asks 1 turn that the recording does not have" in found.text
    assert "Check your answer once more." in found.text
    assert found.tokens is None, "nobody knows what an unrecorded turn costs"


CHECK = "Check your answer once more."
WHERE = {
    "the file that asks": ({"agent/check.py": f'MODEL = "m"\nCHECK = "{CHECK}"\n'}, "agent/check.py:2"),
    "two files": (dict.fromkeys(("agent/check.py", "agent/other.py"), f'CHECK = "{CHECK}"\n'), ""),
    "none": ({"agent/check.py": "import checks\n"}, ""),
}


@pytest.mark.parametrize("kind", WHERE)
def test_a_turn_more_has_the_line_of_its_text(kind: str) -> None:
    files, where = WHERE[kind]
    run = replay(
        record(BODIES, support_agent().answers()), [*BODIES, continued(BODIES[-1], SAID, user(CHECK))]
    )
    (found,) = findings(run, SourceTree(files))
    assert str(found.source or "") == where
    assert (f"'{CHECK}', from agent/check.py:2;" in found.text) == bool(where)


def test_a_conversation_more_has_the_line_of_what_it_asks() -> None:
    agent = subagents()
    run = replay(record(agent.bodies()[:4], agent.answers()[:4]), agent.bodies()[:8])
    asked = "Research the chain for us."
    (found,) = findings(run, SourceTree({"agent/lead.py": f'ask("{asked}")\n'}))
    assert asked not in str(agent.bodies()[:4])
    assert str(found.source) == "agent/lead.py:1"


def test_a_turn_less() -> None:
    (found,) = told(BODIES[:-1])
    assert (found.kind, found.where) == ("turns_changed", "removed")
    assert "1 recorded turn is not asked for any more" in found.text
    lost = record(BODIES, support_agent().answers())[-1].answer.usage
    assert lost is not None
    assert found.tokens == -lost.tokens.prompt_tokens
    assert found.cost_usd == -(cost(lost) or 0)


def test_a_loop_over_a_tool_is_named_with_its_arguments_and_how_often() -> None:
    looping = continued(
        BODIES[-1], calls("toolu_9", "search", query="saddle"), user(result("toolu_9", PASSAGES))
    )
    loop, added = told([*BODIES, looping])
    assert (loop.kind, loop.where) == ("turns_changed", "loop")
    assert 'search({"query": "saddle"}) is called 2 times with the same arguments' in loop.text
    assert added.where == "added"


def test_a_call_that_the_recording_repeats_too_is_no_loop() -> None:
    poll = Step("", [("get_order", {"order": "FW-1"})], ["on its way"])
    agent = support_agent(steps=[poll, poll, Step("It is on its way.")])
    bodies = agent.bodies()
    extra = continued(bodies[-1], {"role": "assistant", "content": "It is on its way."}, user("And now?"))
    (found,) = told([*bodies, extra], agent)
    assert found.where == "added"


@pytest.mark.parametrize("again", [0, 1], ids=["that begins a conversation", "within one"])
def test_the_same_request_again_is_a_loop(again: int) -> None:
    loop, added = told([*BODIES, BODIES[again]])
    assert "the same request is sent 2 times" in loop.text
    assert added.where == "added"
    assert "asks 1 turn that the recording does not have" in added.text, "it is no subagent more"


def test_a_subagent_less_with_what_it_cost() -> None:
    agent = subagents()
    (two,) = told(agent.bodies()[:4], agent)
    assert "2 conversations of the recording are not started" in two.text
    (found,) = told(agent.bodies()[:8], agent)
    assert "1 conversation of the recording is not started" in found.text
    assert "Research the pump for us." in found.text
    assert "1 more" in found.text
    assert found.tokens is not None
    assert found.tokens < 0


def test_a_subagent_more() -> None:
    agent = subagents()
    recorded = record(agent.bodies()[:8], agent.answers()[:8])
    (found,) = findings(replay(recorded, agent.bodies()))
    assert (found.kind, found.where) == ("turns_changed", "added")
    assert "starts 1 conversation more than recorded" in found.text
    assert "Research the pump for us." in found.text


def reshaped(now: Body, was: Body) -> Finding:
    """The finding about a turn that is paired with a recorded one of another place."""
    run = replay(record(BODIES, support_agent().answers()), BODIES)
    pair = replace(run.turns[0].pair, request=request(now), recorded=request(was))
    turn = replace(run.turns[0], pair=pair)
    (found,) = findings(replace(run, turns=(turn, *run.turns[1:]), reshaped=(pair,)))
    return found


def test_another_shape_of_a_conversation() -> None:
    found = reshaped(BODIES[2], BODIES[0])
    assert (found.kind, found.where) == ("turns_changed", "turn 1")
    assert "another shape than recorded, 5 messages where 1 were recorded" in found.text


def swapped(body: Body) -> Body:
    """The first two answers, each with what it got, in the other order."""
    other = copy.deepcopy(body)
    other["messages"][1:3], other["messages"][3:5] = other["messages"][3:5], other["messages"][1:3]
    return other


def test_messages_in_another_order() -> None:
    assert "the messages come in another order than recorded" in reshaped(swapped(BODIES[2]), BODIES[2]).text


def test_messages_in_another_order_that_have_no_answer() -> None:
    moved, gone = told([*BODIES[:2], swapped(BODIES[2])])
    assert (moved.kind, moved.where) == ("turns_changed", "reordered")
    assert "1 turn sends its messages in another order than recorded" in moved.text
    assert "1 recorded turn is not asked for any more (an agent ends where it gets no answer)" in gone.text
    (both,) = told([*BODIES[:2], *map(swapped, BODIES[2:])])
    assert "2 turns send their messages in another order than recorded" in both.text


def test_questions_in_another_order() -> None:
    """What a script asks, one after the other, in one conversation."""
    asked = ("Where is my order?", "Which pump do I need?", "What does it cost to send it back?")
    said = ("It left on Friday and comes on Tuesday.", "The one for long valves.", "Nothing at all.")
    recorded = support_agent(opening=asked[0], rolling=False, steps=[Step(words) for words in said])

    def asking(*order: int) -> list[Body]:
        bodies = recorded.bodies()
        for body in bodies:
            for message, number in zip(body["messages"][::2], order, strict=False):
                message["content"] = asked[number]
        return bodies

    whole = record(asking(0, 1, 2), recorded.answers())
    (found, *_) = findings(replay(whole, asking(0, 2, 1)))
    assert (found.kind, found.where) == ("turns_changed", "turns 2 and 3")
    assert found.text.endswith("ask in another order than recorded: what turns 3 and 2 asked")
    assert not findings(replay(whole, asking(0, 1, 2)))


def test_another_call_in_its_place_is_no_other_shape() -> None:
    other = copy.deepcopy(BODIES[0])
    other["messages"] = [user("Which of our pumps fits a long valve?")]
    text = reshaped(other, BODIES[0]).text
    assert "something else is asked than on the recorded turn in its place, user text 'My saddle" in text


def test_more_results_of_tools_than_recorded() -> None:
    more = copy.deepcopy(BODIES[1])
    more["messages"][-1]["content"].append(result("toolu_0_1", "Nothing found."))
    assert "2 tool results where 1 were recorded" in reshaped(more, BODIES[1]).text


def test_concurrent_conversations_in_another_order_are_no_change() -> None:
    agent = subagents()
    bodies = agent.bodies()
    assert told([bodies[i] for i in (4, 0, 8, 1, 5, 9, 2, 10, 6, 3, 7, 11)], agent) == []


def test_a_model_that_is_switched_says_what_it_costs() -> None:
    bodies = copy.deepcopy(BODIES)
    bodies[0]["model"] = "claude-opus-4-8"
    found = {one.kind: one for one in told(bodies)}
    assert found["model_changed"].text.startswith(f"turn 1: claude-opus-4-8 instead of {MODEL}")
    assert found["model_changed"].cost_usd is not None
    assert found["model_changed"].cost_usd > 0
    output = support_agent().answers()[0][1]
    said = f"; its {output} output tokens are as recorded, by the other tokenizer"
    assert found["model_changed"].text.endswith(said)
    bodies[0]["model"] = "claude-haiku-4-5"
    (text,) = (one.text for one in told(bodies) if one.kind == "model_changed")
    assert text == f"turn 1: claude-haiku-4-5 instead of {MODEL}"


def test_another_rate_of_the_same_model() -> None:
    run = replay(record(BODIES, support_agent().answers()), BODIES)
    dear = Usage.of(Rate("claude-haiku-4-5"), Tokens(input_tokens=10))
    first = replace(
        run.turns[0], recorded=Usage.of(Rate("claude-opus-4-8"), Tokens(input_tokens=10)), usage=dear
    )
    (found,) = findings(Run((first,)))
    assert (found.kind, found.where) == ("model_changed", "turn 1")
    long = replace(first, usage=Usage.of(Rate("claude-opus-4-8", ("batch",)), Tokens(input_tokens=10)))
    (found,) = findings(Run((long,)))
    assert (found.kind, found.text) == (
        "rate_changed",
        "turn 1: claude-opus-4-8 (batch) instead of claude-opus-4-8",
    )
    assert found.cost_usd == -cost(first.recorded or Usage()) / 2  # type: ignore[operator]


def test_a_later_recording_names_what_was_called_anew_and_its_dollars_are_from_one_start() -> None:
    run = replay(record(BODIES, support_agent().answers()), BODIES)
    *kept, last = run.turns
    answer = replace(last.pair.answer, recording_session=1)
    run = replace(run, turns=(*kept, replace(last, pair=replace(last.pair, answer=answer))))
    (rate,) = run.usage.by_rate
    read = {rate: {"5m": run.usage.tokens.cache_read_input_tokens}}
    fewer = Usage.of(rate, replace(run.usage.tokens, output_tokens=1), turns=len(kept))
    (finding,) = recorded_anew(run, fewer, cost, Starts(read, read), names_recording=True)
    assert f"; called anew: {asked(BODIES[-1])}" in finding.text
    (other,) = recorded_anew(run, fewer, cost, Starts(read, {}), names_recording=True)
    assert finding.cost_usd is not None
    assert other.cost_usd is not None
    assert finding.cost_usd > 0 > other.cost_usd, "what another start had read is written on both sides"


def asked(body: Body) -> str:
    said = body["messages"][-1]["content"]
    return f"user {said[0]['type']}" if isinstance(said, list) else "user text"


def test_a_call_of_another_kind_has_no_first_difference_to_the_recorded_ones() -> None:
    check = {"model": MODEL, "max_tokens": 9, "messages": [user("Is this polite? Say yes or no.")]}
    (found,) = told([*BODIES, check])
    assert found.text.endswith("conversation more than recorded: user text 'Is this polite? Say yes or no.'")
