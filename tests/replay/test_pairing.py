"""Pairing: what changes harmlessly finds its recorded answer; what took another shape is told."""

from __future__ import annotations

import copy
import itertools
import json
import random
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_tokenbudget.model import Paired
from pytest_tokenbudget.wire.exchange import Answer, Request
from support.blocks import user
from support.conversations import (
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
    record_bodies,
    recording,
    replay,
    request,
    result,
    said,
    text,
    tool_use,
)
from support.sample import examples, tenth

# --- Subagents in any interleaving ----------------------------------------------------------------

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
    for seed in tenth(range(5 if answer is with_texts else 20), of=f"{change.__name__} {answer.__name__}"):
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
    for seed in tenth(range(20), of="system prompts"):
        again = recording(*((e.request, e.answer) for e in recorded.exchanges))
        matches = replay(again, same(more), random.Random(1 + seed))
        assert {turn: match and match.index for turn, match in matches.items()} == places
        assert is_faithful(again)


@settings(max_examples=examples(50))
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


# --- One conversation, another shape --------------------------------------------------------------

QUESTION = "Where is order 1017, and when does it arrive at my house?"
Q = user(QUESTION)
A1 = tool_use("toolu_1", "I look up the order.").message["content"]
A2 = tool_use("toolu_2", "Now the carrier.").message["content"]
R1, R2 = result("toolu_1", "left on Monday"), result("toolu_2", "arrives on Friday")
DONE = text("It left on Monday and arrives on Friday.")
B1, B2, B3 = body([Q]), body([Q, said(A1), R1]), body([Q, said(A1), R1, said(A2), R2])
THANKS = [*B3["messages"], said(DONE.message["content"]), user("Thank you, what about the voucher then?")]


def dependent_calls() -> Any:
    """Two tool calls and an answer: every request holds the answer before."""
    return recording((B1, tool_use("toolu_1")), (B2, tool_use("toolu_2")), (B3, DONE))


def longer(sent: Body) -> Body:
    return {**sent, "system": f"{POLICY} Never promise anything that you did not look up yourself."}


def chat(*says: str) -> list[Body]:
    """A conversation in texts; the answers are `Answer 0 ...`, `Answer 1 ...`."""
    history: list[Any] = []
    bodies = []
    for turn, words in enumerate(says):
        history.append(user(words))
        bodies.append(body(list(history)))
        history.append(said(f"Answer {turn}: this is what I can tell you about the matter, and no more."))
    return bodies


SAYS = (
    "Where is order 1017, please tell me the day?",
    "And who brings it to my house then?",
    "Can I still use my voucher on it?",
)


def chat_recording() -> Any:
    answers = (
        text(f"Answer {turn}: this is what I can tell you about the matter, and no more.")
        for turn in range(3)
    )
    return recording(*zip(chat(*SAYS), answers, strict=True))


REFLECT = user("Check your last answer for mistakes and repeat it.")

ADVERSARIES: dict[str, tuple[Callable[[], Any], list[Body]]] = {
    # The number of calls is that of the recording, so that mere order would pass every one of them.
    "asks the first question over and over": (dependent_calls, [B1, B1, B1]),
    "asks it over and over, with a longer prompt": (dependent_calls, [longer(B1)] * 3),
    "asks the second question twice": (dependent_calls, [B1, B2, B2]),
    "asks the second question twice, with a longer prompt": (
        dependent_calls,
        [longer(B1), longer(B2), longer(B2)],
    ),
    "starts again instead of going on": (dependent_calls, [B1, B2, B1]),
    "starts again in other words": (
        dependent_calls,
        [B1, B2, body("Where is order 1017 now, and when does it arrive at my house? (Second attempt)")],
    ),
    "swaps dependent calls": (dependent_calls, [B1, B3, B2]),
    "swaps dependent calls, with a longer prompt": (dependent_calls, [longer(B1), longer(B3), longer(B2)]),
    "begins in the middle": (dependent_calls, [B2, B1, B3]),
    "forgets the tool's result": (
        dependent_calls,
        [B1, body([Q, said(A1), user("Well?")]), body([Q, said(A1), user("Well?"), said(A2), R2])],
    ),
    "forgets one of two results": (
        lambda: recording(
            (B1, Answer(200, {"content": [A1[-1], A2[-1]]})),
            (
                body(
                    [Q, said([A1[-1], A2[-1]]), {"role": "user", "content": [*R1["content"], *R2["content"]]}]
                ),
                DONE,
            ),
        ),
        [B1, body([Q, said([A1[-1], A2[-1]]), R1])],
    ),
    "reflects instead of its last call": (
        dependent_calls,
        [B1, B2, body([Q, said(A2), REFLECT, said("No mistakes."), REFLECT])],
    ),
    "reflects on its own, without the last call": (
        dependent_calls,
        [
            B1,
            B2,
            body("Check this for mistakes: I look up the order. Now the carrier.", system="You check texts."),
        ],
    ),
    "repeats a question in the same conversation": (chat_recording, chat(SAYS[0], SAYS[0], SAYS[2])),
    "repeats the last question instead of a new one": (chat_recording, chat(SAYS[0], SAYS[1], SAYS[1])),
    "loses its memory and asks anew": (
        chat_recording,
        [chat(SAYS[0])[0], chat(SAYS[1])[0], chat(SAYS[0])[0]],
    ),
    "asks one subagent twice and another never": (
        lambda: recording(
            *((body(f"Report on the {topic}."), text(topic)) for topic in ("weather", "traffic"))
        ),
        [body("Report on the weather."), body("Report on the weather.")],
    ),
    "asks one subagent twice and another never, with a longer prompt": (
        lambda: recording(
            *((body(f"Report on the {topic}."), text(topic)) for topic in ("weather", "traffic"))
        ),
        [longer(body("Report on the weather.")), longer(body("Report on the weather."))],
    ),
    "asks one subagent twice in other words": (
        lambda: recording(
            *((body(f"Report on the {topic}."), text(topic)) for topic in ("weather", "traffic"))
        ),
        [body("Report on the weather, please."), body("Report again on the weather.")],
    ),
    "drops one call and adds an unlike one": (
        lambda: recording(
            (body("Classify this ticket: my parcel is late."), text("delivery")),
            (
                body("Rate this reply from 1 to 5: it comes.", system="You review replies.", tools=[]),
                text("5"),
            ),
        ),
        [
            body("Classify this ticket: my parcel is late."),
            body("Zeichne eine Karte der Stadt!", system="Du bist Kartograph und zeichnest gern.", tools=[]),
        ],
    ),
}


@pytest.mark.parametrize("name", ADVERSARIES)
def test_another_shape_under_the_same_number_of_calls_is_told(name: str) -> None:
    make, bodies = ADVERSARIES[name]
    recorded = make()
    assert len(bodies) == len(recorded.exchanges)
    play(recorded, bodies)
    assert not is_faithful(recorded)


def test_the_very_same_run_of_the_adversaries_is_faithful() -> None:
    for make, _ in ADVERSARIES.values():
        recorded = make()
        play(recorded, [])
        again = recording(*((e.request, e.answer) for e in recorded.exchanges))
        play(again, [e.request for e in recorded.exchanges])
        assert is_faithful(again)


@settings(max_examples=examples(300))
@given(
    answer=st.sampled_from([ok, with_tools, with_texts]),
    change=st.sampled_from(sorted(set(CHANGES) - {summarised}, key=lambda change: change.__name__)),
    seed=st.integers(0, 10**6),
    mutations=st.lists(st.tuples(st.booleans(), st.integers(0, 8), st.integers(0, 8)), max_size=3),
)
def test_faithful_is_what_asks_everything_once_and_no_answer_before_its_question(
    answer: Callable[[int, int], Answer],
    change: Change,
    seed: int,
    mutations: list[tuple[bool, int, int]],
) -> None:
    """Any list of as many requests as were recorded, some of them repeated, left out or moved."""
    exchanges, places = record_bodies([Agent(number, 3, answer) for number in range(3)], random.Random(seed))
    recorded = recording(*exchanges)
    turns = sorted(places, key=places.__getitem__)
    for swap, i, j in mutations:
        turns[i], turns[j] = (turns[j], turns[i]) if swap else (turns[j], turns[j])
    play(recorded, [change(exchanges[places[turn]][0], Agent(turn[0], 3, answer)) for turn in turns])
    whole = sorted(turns) == sorted(places)
    in_order = all([t for a, t in turns if a == agent] == [0, 1, 2] for agent in range(3))
    assert is_faithful(recorded) == (whole and in_order)


# --- Retries, batches, sessions, counts -----------------------------------------------------------


@pytest.mark.parametrize("change", [lambda sent: sent, longer])
def test_a_retry_continues_with_the_next_recorded_attempt(change: Callable[[Body], Body]) -> None:
    recorded = recording((B1, OVERLOADED), (B1, OVERLOADED), (B1, tool_use("toolu_1")), (B2, DONE))
    assert play(recorded, [change(B1)] * 3 + [change(B2)]) == [0, 1, 2, 3]
    assert is_faithful(recorded)
    assert [pair.answer.billed for pair in recorded.pairs] == [False, False, True, True]


def test_retries_of_concurrent_requests_do_not_mix() -> None:
    other = body("What is your return policy, and where do I send things?")
    recorded = recording((B1, OVERLOADED), (other, OVERLOADED), (other, text("30 days.")), (B1, DONE))
    new = [longer(B1), longer(other), longer(B1), longer(other)]
    assert play(recorded, new) == [0, 1, 3, 2]
    assert is_faithful(recorded)


def test_a_retry_that_was_not_recorded_is_a_miss() -> None:
    recorded = recording((B1, OVERLOADED), (body([Q], model="claude-haiku-4-5"), DONE))
    assert play(recorded, [longer(B1), longer(B1)]) == [0, None]


def test_a_fallback_to_another_model_finds_its_own_answer() -> None:
    fallback = body([Q], model="claude-haiku-4-5")
    recorded = recording((B1, OVERLOADED), (B1, OVERLOADED), (fallback, DONE))
    assert play(recorded, [longer(B1), longer(B1), longer(fallback)]) == [0, 1, 2]
    assert is_faithful(recorded)


def test_a_failed_attempt_that_does_not_happen_again_is_no_change() -> None:
    recorded = recording((B1, OVERLOADED), (B1, DONE))
    assert [exchange.answer.status for exchange in recorded.unplayed] == [200]


def entry(name: str, sent: Body) -> Request:
    """An entry of a batch."""
    return replace(request(sent), custom_id=name)


def test_entries_of_a_batch_are_paired_by_their_custom_id() -> None:
    recorded = recording(*((entry(n, body(f"Rate reply {n}.")), text(n)) for n in "abc"))
    again = [entry(n, longer(body(f"Rate reply {n}."))) for n in "cab"]
    assert play(recorded, again) == [2, 0, 1]
    assert is_faithful(recorded)
    assert recorded.choose(request(body("Rate reply a."))) is None, "a batch answers no single request"


def test_an_entry_of_a_batch_is_exact_only_where_it_asks_what_was_recorded() -> None:
    """A changed one must not keep its old number as an exact one."""
    bodies = {name: body(f"Rate reply {name}.") for name in "abc"}
    recorded = recording(*((entry(name, sent), text(name)) for name, sent in bodies.items()))
    bodies["b"] = longer(bodies["b"])
    assert play(recorded, [entry(name, sent) for name, sent in bodies.items()]) == [0, 1, 2]
    assert [pair.how for pair in recorded.pairs] == [Paired.EXACT, Paired.LINEAGE, Paired.EXACT]


def test_of_entries_of_one_custom_id_the_one_that_asks_the_same_is_chosen() -> None:
    """Two batches may use one name: the same words first, else the order of the recording."""
    first, second = body("Rate reply a."), body("Rate reply b.")
    recorded = recording((entry("x", first), text("1")), (entry("x", second), text("2")))
    assert play(recorded, [entry("x", second), entry("x", first)]) == [1, 0]
    assert [pair.how for pair in recorded.pairs] == [Paired.EXACT] * 2
    again = recording((entry("x", first), text("1")), (entry("x", second), text("2")))
    assert play(again, [entry("x", longer(second)), entry("x", longer(first))]) == [0, 1]


def test_sessions_keep_twins_apart() -> None:
    """Subagents of Claude Code that say the same in another process: their headers tell them apart."""
    twins = [
        [Q, said("I see."), user("go on")],
        [Q, said("I see."), user("go on"), said("I see."), user("end")],
    ]

    def run(names: str) -> list[Request]:
        order = [(a, t) for t in range(3) for a in names]
        return [request(body([[Q], *twins][t]), x_claude_code_session_id=a) for a, t in order]

    answers = [text("I see.")] * 6
    recorded = recording(*zip(run("xy"), answers, strict=True))
    played = [
        recorded.choose(asked) for asked in [replace(r, digest=f"n{i}") for i, r in enumerate(run("pq"))]
    ]
    assert [match and match.index for match in played] == [0, 1, 2, 3, 4, 5]
    assert is_faithful(recorded)
    assert [sorted(match.origin.parents) for match in played if match] == [[], [], [0], [1], [2], [3]]


def test_of_requests_of_the_same_bytes_the_one_at_the_same_place_is_chosen() -> None:
    """Twins, told apart by their sessions: the second turn of one goes on with what the first of it got."""
    bodies = [body([Q]), body([Q, said("I see."), user("go on")])]

    def ask(session: str, number: int) -> Request:
        return request(bodies[number], x_claude_code_session_id=session)

    order = [("x", 0), ("y", 0), ("x", 1), ("y", 1)]
    recorded = recording(*((ask(*one), text("I see.")) for one in order))
    assert play(recorded, [ask("p", 0), ask("q", 0), ask("q", 1), ask("p", 1)]) == [0, 1, 3, 2]
    assert {pair.how for pair in recorded.pairs} == {Paired.EXACT}
    assert is_faithful(recorded)


COUNT = "https://api.anthropic.com/v1/messages/count_tokens"


def sorted_keys(sent: Body) -> Body:
    """The same JSON, its keys in alphabetical order."""
    ordered: Body = json.loads(json.dumps(sent, sort_keys=True))
    return ordered


@pytest.mark.parametrize("answer", [ok, with_tools, with_texts])
def test_the_same_json_in_another_order_of_keys_is_exact(answer: Callable[[int, int], Answer]) -> None:
    recorded, places = record(team(answer), random.Random(1))
    matches = replay(recorded, team(answer, lambda sent, _: sorted_keys(sent)), random.Random(2))
    assert {turn: match and match.index for turn, match in matches.items()} == places
    assert {pair.how for pair in recorded.pairs} == {Paired.EXACT}
    assert is_faithful(recorded)


def test_of_equal_requests_the_one_of_the_same_bytes_comes_first_then_recorded_order() -> None:
    sent = body("Hello", tools=[{"name": "f", "input_schema": {"b": 1, "a": 2}}])
    recorded = recording((sent, text("1")), (sorted_keys(sent), text("2")), (sent, text("3")))
    again = json.loads(json.dumps(sent))
    assert play(recorded, [sorted_keys(sent), sorted_keys(sent), again]) == [1, 0, 2]
    assert {pair.how for pair in recorded.pairs} == {Paired.EXACT}


@pytest.mark.parametrize("values", list(itertools.permutations([True, 1, 1.0], 2)), ids=str)
def test_equal_means_of_the_same_type(values: tuple[object, object]) -> None:
    was, now = (body("Hello", tools=[{"name": "f", "strict": value, "input_schema": {}}]) for value in values)
    recorded = recording((was, text("1")))
    assert play(recorded, [now]) == [0]
    assert recorded.pairs[0].how is not Paired.EXACT


def test_recording_what_changed_calls_anew_where_the_order_of_keys_changed() -> None:
    sent = body("Hello", tools=[{"name": "f", "input_schema": {"b": 1, "a": 2}}])
    recorded = recording((sent, text("1")))
    assert recorded.choose_exact(request(sorted_keys(sent))) is None
    assert recorded.choose_exact(request(sent)) is not None


def test_token_counts_are_no_turns_and_may_be_asked_again() -> None:
    recorded = recording((request(B1, COUNT), Answer(200, {"input_tokens": 9})), (B1, DONE))
    assert play(recorded, [request(longer(B1), COUNT)] * 2) == [0, 0]
    assert [pair.how for pair in recorded.token_counts] == [Paired.SIMILAR] * 2
    assert recorded.pairs == ()
    assert play(recorded, [B1]) == [1]
    assert is_faithful(recorded)


def test_a_token_count_that_nobody_asked_for_is_no_change() -> None:
    recorded = recording((request(B1, COUNT), Answer(200, {"input_tokens": 9})), (B1, DONE))
    play(recorded, [B1])
    assert is_faithful(recorded)


# --- What supports an opening ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("new", "how", "reshaped"),
    [
        (longer(B1), Paired.SIMILAR, False),
        (body("Wholly another question."), Paired.SIMILAR, False),  # the same agent
        (body(QUESTION, system="Sei kurz.", tools=[]), Paired.SIMILAR, False),  # the same question
        (
            body("Is my order on its way?", system="Help the people of the shop.", tools=[]),
            Paired.ORDER,
            False,
        ),
        (body("Zeichne eine Karte!", system="Du bist Kartograph.", tools=[]), Paired.ORDER, True),
    ],
)
def test_the_only_opening_may_be_rewritten_but_not_into_nothing_like_it(
    new: Body, how: Paired, reshaped: bool
) -> None:
    recorded = recording((B1, DONE))
    play(recorded, [new])
    assert [pair.how for pair in recorded.pairs] == [how]
    assert bool(recorded.reshaped) is reshaped


def test_one_subagent_more_gets_nothing_that_was_another_agents() -> None:
    search = body("Find a bell.", system="You search the shop's catalogue for one article.")
    other = body("Find a lamp.", system="You search the shop's catalogue for one article.")
    recorded = recording((search, DONE), (body("Zeichne!", system="Du bist Kartograph.", tools=[]), DONE))
    assert play(recorded, [search, other]) == [0, None]
    assert len(recorded.misses) == 1


@pytest.mark.parametrize("change", ["the tool", "the system prompt"])
def test_a_call_in_front_that_asks_the_same_of_another_model_is_the_added_one(change: str) -> None:
    """A triage: it gets an answer first, and gives it back to the agent whose question it repeats."""
    question = user("My parcel 4711 never came. Where is it?")
    system, answered = "You find parcels for the customers of a shop.", tool_use("toolu_a1", "I look.")
    opening = body([question], system=system)
    second = body(
        [question, said(answered.message["content"]), result("toolu_a1", "On its way.")], system=system
    )
    recorded = recording((opening, answered), (second, DONE))
    triage = body([question], model="claude-haiku-4-5", tools=[])
    if change == "the tool":
        tools = [
            {**TOOLS[0], "description": "Looks a parcel up by its number, and says where it is."},
            *TOOLS[1:],
        ]
        now = [{**sent, "tools": tools} for sent in (opening, second)]
    else:
        now = [{**sent, "system": f"{system} Be brief."} for sent in (opening, second)]
    play(recorded, [triage, *now])
    assert [request.prompt.model for request in recorded.misses] == ["claude-haiku-4-5"]
    assert [(pair.index, pair.request.body) for pair in recorded.pairs] == [(0, now[0]), (1, now[1])]
    assert recorded.unplayed == ()


@pytest.mark.parametrize("model", ["claude-haiku-4-5", "claude-sonnet-4-6"])
def test_a_critique_in_front_gives_back_what_the_same_system_prompt_was_answered(model: str) -> None:
    """It says what the writer is told, and the writer is told what it found."""
    findings = "Finding 1: the train leaves at nine.\n\nFinding 2: the hotel has a room for three nights."
    writer = {"system": "You write itineraries from the findings of a team.", "tools": []}
    recorded = recording((body(f"{findings} Write it.", **writer), DONE))
    critique = body(f"Criticise the findings: {findings}", model=model, system="", tools=[])
    now = body(f"{findings} Finding 3: say the price. Write it.", **writer)
    assert play(recorded, [critique, now]) == [0, 0]
    assert [pair.request.body for pair in recorded.pairs] == [now]
    assert [request.body for request in recorded.misses] == [critique]


def test_of_two_calls_with_one_system_prompt_the_second_takes_nothing_back() -> None:
    writer = {"system": "You write itineraries from the findings of a team.", "tools": []}
    recorded = recording((body("Finding 1: the train leaves at nine. Write it.", **writer), DONE))
    first, second = (body(f"Finding {n}: the train leaves at nine. Write it.", **writer) for n in (2, 3))
    assert play(recorded, [first, second]) == [0, None]


@pytest.mark.parametrize("change", ["nothing", "the system prompt"])
def test_a_subagent_more_gives_back_all_that_it_was_answered_with(change: str) -> None:
    """It runs where the recording begins another one, and is led through that one's tools."""
    system = "You read the pages of a warehouse, and note what is missing."

    def turns(topic: str, *answers: Answer, system: str = system) -> list[Body]:
        messages, bodies = [user(f"Read for {topic}.")], []
        for step, answer in enumerate(answers):
            bodies.append(body(list(messages), system=system))
            messages += [said(answer.message["content"]), result(f"toolu_{topic}{step}", f"Page of {topic}.")]
        return bodies

    calls = {
        topic: [tool_use(f"toolu_{topic}{step}", f"I look at step {step}.") for step in range(2)]
        for topic in ("dates", "sums", "people")
    }
    recorded = recording(
        *(
            (sent, answer)
            for topic, steps in calls.items()
            for sent, answer in zip(turns(topic, *steps, DONE), [*steps, DONE], strict=True)
        )
    )
    now = f"{system} Be brief." if change == "the system prompt" else system
    dates = turns("dates", *calls["dates"], DONE, system=now)
    sums = turns("sums", *calls["sums"], DONE, system=now)
    people = turns("people", *calls["people"], DONE, system=now)
    names = turns("names", *calls["sums"], DONE, system=now)
    for sent in names[1:]:  # it answers the tool calls that it was given
        for message in sent["messages"]:
            for block in message["content"] if isinstance(message["content"], list) else ():
                if block["type"] == "tool_result":
                    block["tool_use_id"] = block["tool_use_id"].replace("names", "sums")
    matches = [recorded.choose(request(sent)) for sent in (*dates, *names, *sums, *people)]
    assert [match and match.index for match in matches] == [0, 1, 2, 3, 4, 5, 3, 4, 5, 6, 7, 8]
    assert [match.displaced.follows for match in matches if match and match.displaced] == [False, True, True]
    assert [miss.body for miss in recorded.misses] == names
    assert [(pair.index, pair.request.body) for pair in recorded.pairs] == [
        *enumerate([*dates, *sums, *people])
    ]
    assert recorded.unplayed == ()


def test_examples_with_labels_are_not_taken_for_answers() -> None:
    """Few-shot classification: the answers are texts of the prompt."""

    def classify(review: str, *examples: str) -> Body:
        shown = [m for e in examples for m in (user(f"Review: {e}"), said("good" if "love" in e else "bad"))]
        return body([*shown, user(f"Review: {review}")], tools=[])

    shown = ("I love it", "hate this", "I love you all")
    reviews = ["awful thing", "lovely thing", "love that colour"]
    recorded = recording(
        *((classify(r, *shown[:2]), text("good" if "love" in r else "bad")) for r in reviews)
    )
    new = [longer(classify(r, *shown)) for r in reversed(reviews)]
    assert play(recorded, new) == [2, 1, 0]
    assert is_faithful(recorded)


def test_asking_the_same_again_gets_nothing_else_where_every_answer_is_the_same_word() -> None:
    """Which answer it continues cannot be told by that word: no reason to give it what was asked later."""
    second = [user("Next."), said("OK"), user("Next.")]
    third = [*second, said("OK"), user("Next.")]
    recorded = recording(*((body(messages), text("OK")) for messages in (second, third, third)))
    assert play(recorded, map(body, (second, third, second))) == [0, 1, None]


def test_a_summary_with_the_last_question_only_keeps_its_place() -> None:
    recorded = chat_recording()
    summary = user("In short: the order left on Monday.")
    new = [body([summary, user(says)]) if i else body(says) for i, says in enumerate(SAYS)]
    assert play(recorded, new) == [0, 1, 2]
    assert is_faithful(recorded)


def test_only_exact_leaves_everything_else_as_it_was() -> None:
    recorded = dependent_calls()
    assert recorded.choose_exact(request(longer(B1))) is None
    assert recorded.choose_exact(request(B2)) is None, (
        "the same bytes, but nobody asked the first question yet"
    )
    assert recorded.misses == ()
    for index, sent in enumerate((B1, B2, B3)):
        match = recorded.choose_exact(request(sent))
        assert match is not None
        assert match.index == index
    assert is_faithful(recorded)


def test_an_answer_without_a_bill_is_no_exact_one() -> None:
    """`--token-budget-record=changed` calls it again."""
    recorded = recording((B1, replace(DONE, usage=None)))
    assert recorded.choose_exact(request(B1)) is None
    assert play(recorded, [B1]) == [0]


def test_threads_never_share_an_answer() -> None:
    recorded = recording(*((body(f"Question {n % 8}"), text(str(n))) for n in range(64)))
    with ThreadPoolExecutor(16) as pool:
        matches = list(
            pool.map(recorded.choose, [request(longer(body(f"Question {n % 8}"))) for n in range(64)])
        )
    assert sorted(match.index for match in matches if match) == list(range(64))
    assert all(match and match.index % 8 == n % 8 for n, match in enumerate(matches))
    assert is_faithful(recorded)


def test_a_long_conversation_pairs_turn_for_turn() -> None:
    turns = 60
    history: list[Any] = []
    bodies = []
    for turn in range(turns):
        history.append(user(f"Question {turn}: " + "why " * 200))
        bodies.append(request(body(list(history))))
        history.append(said(f"Answer {turn} of many answers that are given in this talk."))
    answers = [text(f"Answer {turn} of many answers that are given in this talk.") for turn in range(turns)]
    recorded = recording(*zip(bodies, answers, strict=True))
    new = [replace(sent, digest=f"changed {i}") for i, sent in enumerate(bodies)]
    assert play(recorded, new) == list(range(turns))


def test_many_rewritten_openings_are_told_apart() -> None:
    def ask(number: int, more: str = "") -> Body:
        chance = random.Random(number)
        own = " ".join(chance.choices([f"word{i}" for i in range(3000)], k=150))
        return body(f"Task {number}: {own}{more}", system=f"Agent {number} knows {own[::-1]}.{more}")

    recorded = recording(*((ask(number), text(f"answer {number}")) for number in range(100)))
    new = [(number, request(ask(number, " Be kind."))) for number in range(100)]
    random.Random(0).shuffle(new)
    matches = [(number, recorded.choose(asked)) for number, asked in new]
    assert all(match and match.index == number for number, match in matches)
    assert is_faithful(recorded)


def test_a_prefilled_answer_is_no_turn_of_the_history() -> None:
    """The agent begins the answer itself, and keeps the whole of it."""
    prefill = said("{")
    first = body([Q, prefill])
    second = body([Q, said('{"order": 1017}'), user("And who brings it?"), prefill])
    recorded = recording((first, text('"order": 1017}')), (second, text('"carrier": "van"}')))
    assert [origin.parents for origin in recorded._recorded.origins] == [frozenset(), frozenset({0})]
    assert play(recorded, [longer(first), longer(second)]) == [0, 1]
    assert is_faithful(recorded)
    again = recording((first, text('"order": 1017}')), (second, text('"carrier": "van"}')))
    assert play(again, [longer(first), longer(first)]) == [0, None]


def test_system_messages_in_the_course_of_a_conversation_are_not_what_is_said() -> None:
    reminder = {"role": "system", "content": "The folder is /home/one, and the date is not known."}
    other = {"role": "system", "content": "The folder is /home/two, and the date is not known."}

    def ask(words: str, told: Body) -> Body:
        return body([user(words), told])

    questions = ["Where is order 1017 now?", "What is in the box of order 1018?"]
    recorded = recording(*((ask(words, reminder), text(words)) for words in questions))
    assert play(recorded, [ask(words, other) for words in reversed(questions)]) == [1, 0]
    assert is_faithful(recorded)
