"""What would be cheaper: the place, the change, and a saving that a simulation of the change confirms."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest

from pytest_tokenbudget.advice import Spend, advise, far_above, outliers
from pytest_tokenbudget.advice.layout import lay_out
from pytest_tokenbudget.diagnosis.prompt_parts import text_of
from pytest_tokenbudget.metering.meter import Run
from pytest_tokenbudget.model import Finding, Rate, Tokens, Usage
from pytest_tokenbudget.sources import SourceTree
from pytest_tokenbudget.wording import dollars as dollars_of
from support.blocks import EPHEMERAL, text
from support.changes import Case, each, mark_system, put, system, unmark
from support.seeded import (
    FILES,
    HANDBOOK,
    PASSAGES,
    SEARCH,
    Agent,
    Step,
    advised,
    changed,
    contents,
    cost,
    record,
    replay,
    several,
    subagents,
    support_agent,
    tool,
)

CHEAPER = {
    "claude-opus-4-8": ("claude-sonnet-4-6", "claude-haiku-4-5"),
    "claude-sonnet-4-6": ("claude-haiku-4-5",),
}


def run_of(agent: Agent, *steps: Any) -> Run:
    """A recorded agent, unchanged since."""
    bodies = changed(agent.bodies(), each(*steps))
    return replay(record(bodies, agent.answers()), bodies)


def levers(run: Run, kind: str, *, runs_per_month: int | None = None, **options: Any) -> list[Finding]:
    laid_out = lay_out(run, cost, runs_per_month=runs_per_month)
    found = advise(laid_out, cheaper=lambda model: CHEAPER.get(model, ()), **options)
    return [one for one in found if one.kind == f"lever_{kind}"]


def dollars(run: Run) -> Decimal:
    return sum((cost(turn.usage) or Decimal(0) for turn in run.turns), Decimal(0))


UNMARKED = unmark("system", "messages")


class TestCaching:
    @pytest.mark.parametrize(
        ("steps", "where", "change"),
        [
            (
                (UNMARKED,),
                "system[0]",
                "cache_control at system[0] and the last message, where nothing is marked now,",
            ),
            (
                (unmark("messages"),),
                "the last message",
                "cache_control at the last message, beside system[0],",
            ),
        ],
        ids=["unmarked", "marked too early"],
    )
    def test_a_breakpoint_where_it_pays_saves_what_it_says(
        self, steps: Sequence[Any], where: str, change: str
    ) -> None:
        run = run_of(support_agent(), *steps)
        (lever,) = levers(run, "caching")
        best = run_of(support_agent())
        assert lever.where == where
        assert lever.text.startswith(f"{change} would read ")
        assert lever.cost_usd == pytest.approx(dollars(best) - dollars(run))
        reads = [sum(t.usage.tokens.cache_read_input_tokens for t in one.turns) for one in (best, run)]
        assert lever.tokens == reads[1] - reads[0]

    @pytest.mark.parametrize(
        ("parts", "change", "line"),
        [
            ({}, "cache_control at system[0] (agent/prompts/handbook.md:1-", 1),
            (
                {"system": None, "tools": [tool("look", HANDBOOK), SEARCH]},
                "cache_control at tools[search] (agent/tools.json:3-",
                3,
            ),
            (
                {"system": [text("Nobody wrote this. " * 900)]},
                "cache_control at system[0] and the last",
                None,
            ),
        ],
        ids=["a system prompt", "a tool", "a text of no file"],
    )
    def test_the_line_of_the_block_that_should_carry_it(
        self, parts: dict[str, Any], change: str, line: int | None
    ) -> None:
        tree = SourceTree(FILES)
        run = run_of(support_agent(**{"system": [text(HANDBOOK)], "rolling": False, **parts}))
        (lever,) = levers(run, "caching", locate=lambda block: tree.locate("", text_of(block)).source)
        assert lever.text.startswith(change)
        assert (lever.source.line if lever.source else None) == line

    def test_a_breakpoint_too_late_is_moved_before_what_changes(self) -> None:
        def late(turn: int, body: Any) -> None:
            body["system"].append(text(f"It is 10:0{turn}.", cache_control=EPHEMERAL))

        (lever,) = levers(run_of(support_agent(), UNMARKED, late), "caching")
        assert "cache_control at system[0] instead of system[1]" in lever.text
        assert "at 1h" in lever.text
        assert lever.cost_usd is not None
        assert lever.cost_usd < 0

    def test_what_is_cached_as_well_as_can_be_brings_no_advice(self) -> None:
        assert levers(run_of(support_agent()), "caching") == []

    def test_nothing_is_to_be_marked_that_the_api_refuses_to_mark(self) -> None:
        """Not an empty text, and not a deferred tool: "cannot carry cache_control" (error 400)."""
        agent = support_agent(system=[text(HANDBOOK), text("")])
        (lever,) = levers(run_of(agent, UNMARKED), "caching")
        assert lever.text.startswith("cache_control at system[0] and the last message, where nothing")

    def test_an_empty_text_at_the_end_is_passed_over(self) -> None:
        def empty(_: int, body: Any) -> None:
            for message in body["messages"]:
                message["content"].append(text(""))

        (lever,) = levers(run_of(support_agent(), UNMARKED, empty), "caching")
        assert "cache_control at system[0] and the last message," in lever.text

    def test_a_deferred_tool_is_passed_over(self) -> None:
        tools = [tool("look", HANDBOOK), tool("find", "Find a page.") | {"defer_loading": True}]
        agent = support_agent(system=None, tools=tools, rolling=False)
        (lever,) = levers(run_of(agent), "caching")
        assert lever.text.startswith("cache_control at tools[look] and the last message, where nothing")

    def test_below_the_minimum_nothing_is_advised(self) -> None:
        short = support_agent(system=[text("Be brief.")], tools=[], rolling=False)
        assert levers(run_of(short, put(model="claude-haiku-4-5")), "caching") == []

    def test_a_prefix_that_changes_on_every_turn_is_not_advised(self) -> None:
        times = system(lambda turn, words: f"10:0{turn}\n{words}")
        first = each(UNMARKED, times, lambda _, body: body.update(tools=[]))
        bodies = changed(support_agent().bodies(), first)
        run = replay(record(bodies, support_agent().answers()), bodies)
        assert levers(run, "caching") == []

    def test_an_hour_that_no_turn_needs(self) -> None:
        def hour(_: int, body: Any) -> None:
            body["system"][0]["cache_control"] = {**EPHEMERAL, "ttl": "1h"}

        (lever,) = levers(
            run_of(support_agent(rolling=False, steps=[Step("Yes."), Step("No.")]), hour), "caching"
        )
        assert "at the last message, beside system[0] (5m instead of 1h), would read" in lever.text

    def test_an_hour_instead_of_five_minutes_at_the_same_place(self) -> None:
        (lever,) = levers(run_of(support_agent(), mark_system("1h")), "caching")
        assert lever.text.startswith("cache_control of 5m instead of 1h at system[0] would be written")
        best, run = (dollars(run_of(support_agent(), *steps)) for steps in ((), (mark_system("1h"),)))
        assert lever.cost_usd == pytest.approx(best - run, rel=Decimal("0.002")), (
            "sizes of prefixes are shares"
        )

    def test_nothing_too_short_to_be_cached_is_to_be_marked(self) -> None:
        def late(turn: int, body: Any) -> None:
            body["system"][0]["text"] = f"It is 10:0{turn}. " + body["system"][0]["text"]

        (lever,) = levers(run_of(support_agent(), late), "caching")
        assert lever.text.startswith("no cache_control at system[0] and the last message would")
        assert lever.where == "system[0]"

    def test_what_broke_the_cache_is_to_be_mended_not_to_be_unmarked(self) -> None:
        agent = support_agent()
        times = each(system(lambda turn, words: f"It is 10:0{turn}. {words}"))
        run = replay(record(agent.bodies(), agent.answers()), changed(agent.bodies(), times))
        assert levers(run, "caching") == []

    def test_a_head_that_only_the_moving_breakpoint_covers_is_marked_for_other_runs(self) -> None:
        sorts = support_agent(
            system="Answer with one word: return, delivery.", tools=[], rolling=False, steps=[Step("return")]
        )
        bodies, answers = several(sorts, support_agent())
        for body in bodies[1:]:
            body["system"][0].pop("cache_control")
        run = replay(record(bodies, answers), bodies)
        (lever,) = levers(run, "caching")
        assert lever.where == "system[0]"
        assert "that every run begins with and no breakpoint ends" in lever.text
        assert lever.tokens is not None
        assert lever.cost_usd == lever.tokens * (Decimal("3.75") - Decimal("0.30")) / 1_000_000

    @pytest.mark.parametrize(
        "step",
        [
            lambda _, body: [tool.update(cache_control=EPHEMERAL) for tool in body["tools"]],
            lambda turn, body: (
                turn < 3 or body["tools"].append({"type": "web_search_20250305", "name": "web"})
            ),
        ],
        ids=["refused", "a server tool on the last turn"],
    )
    def test_a_conversation_that_cannot_be_simulated_brings_no_advice(self, step: Any) -> None:
        bodies = support_agent().bodies()
        recorded = record(bodies, support_agent().answers())
        assert levers(replay(recorded, changed(bodies, each(step))), "caching") == []

    def test_one_turn_by_itself_is_marked_for_the_runs_after_it(self) -> None:
        (lever,) = levers(run_of(support_agent(steps=[Step("Yes.")]), UNMARKED), "caching")
        assert lever.where == "system[0]"
        assert "that every run begins with and no breakpoint ends" in lever.text
        assert lever.tokens is not None
        assert "for runs within five minutes of another" in lever.text
        for ttl, written in (("5m", Decimal("3.75")), ("1h", Decimal("6"))):
            more = dollars_of(-lever.tokens * (written - 3) / 1_000_000)
            assert f"the first pays {more} more" in lever.text, ttl

    def test_a_breakpoint_that_only_other_runs_read_is_left_alone(self) -> None:
        assert levers(run_of(support_agent(steps=[Step("Yes.")], rolling=False)), "caching") == []

    def test_an_unknown_price_gives_no_advice_in_dollars(self) -> None:
        assert levers(run_of(support_agent(), UNMARKED, put(model="claude-nova-9")), "caching") == []


LONG = " ".join(f"Row {i}: a long table that somebody asked for, with {i} columns." for i in range(400))
DRAGGING = support_agent(
    steps=[
        Step("", [("search", {"query": "all"})], [LONG]),
        *(Step("", [("search", {"query": f"q{i}"})], [PASSAGES]) for i in range(8)),
        Step("Done.", output=20),
    ]
)


LONG_AGENT = support_agent(
    steps=[
        Step("", [("search", {"query": "all"})], [LONG]),
        *(Step("", [("search", {"query": f"q{i}"})], [PASSAGES]) for i in range(30)),
        Step("Done.", output=20),
    ]
)


ADVISOR = Usage.of(Rate("claude-opus-4-8"), Tokens(input_tokens=7872, output_tokens=90), turns=0)


def run_advised(agent: Agent, advisor: Usage = ADVISOR) -> Run:
    """A run whose every answer asked an advisor with a longer prompt than its own, too."""
    bodies = agent.bodies()
    return replay(advised(record(bodies, agent.answers()), advisor), bodies)


class TestAnotherModelBesides:
    """An answer may bill two models, and the other one's prompt is nothing that the request can change."""

    def test_a_short_request_is_not_told_to_cache_the_prompt_of_its_advisor(self) -> None:
        short = support_agent(system=[text("Be brief.")], tools=[], opening="Hi.", rolling=False)
        assert levers(run_advised(short), "caching") == []

    def test_what_caching_saves_is_what_it_saves_without_the_advisor(self) -> None:
        (alone,) = levers(run_of(support_agent(), UNMARKED), "caching")
        unmarked = support_agent(system=[text(HANDBOOK)], rolling=False)
        (beside,) = levers(run_advised(unmarked), "caching")
        assert (beside.tokens, beside.cost_usd) == (alone.tokens, alone.cost_usd)

    def test_turns_are_routed_by_their_own_model_and_keep_their_advisor(self) -> None:
        agent = support_agent(steps=[Step("Yes."), Step("No.")], rolling=False, tools=[])
        (alone,) = levers(run_of(agent), "routing", worth=Fraction(0))
        (beside,) = levers(run_advised(agent), "routing", worth=Fraction(0))
        assert "on claude-sonnet-4-6 cost" in beside.text
        assert beside.cost_usd == alone.cost_usd

    def test_a_batch_pays_for_the_advisor_with_and_without_the_cache(self) -> None:
        agent = support_agent()
        (alone,) = levers(run_of(agent), "batching", batchable=True)
        (beside,) = levers(run_advised(agent), "batching", batchable=True)
        cold = [Decimal(one.text.split("without any it costs $")[1].split(";")[0]) for one in (alone, beside)]
        half = sum((cost(ADVISOR) or Decimal(0) for _ in agent.steps), Decimal(0)) / 2
        assert float(cold[1] - cold[0]) == pytest.approx(float(half), abs=0.0002)

    def test_a_batch_adds_up_the_rates_that_become_one(self) -> None:
        agent = support_agent()
        fast = Usage.of(Rate("claude-sonnet-4-6", ("fast",)), Tokens(input_tokens=7872), turns=0)
        (alone,) = levers(run_of(agent), "batching", batchable=True)
        (beside,) = levers(run_advised(agent, fast), "batching", batchable=True)
        saved = -sum((cost(fast) or Decimal(0) for _ in agent.steps), Decimal(0)) / 2
        assert (beside.cost_usd or Decimal(0)) - (alone.cost_usd or Decimal(0)) == saved


class TestContext:
    def test_what_is_dragged_along(self) -> None:
        run = run_of(DRAGGING, UNMARKED)
        lever = next(
            one for one in levers(run, "context") if one.where == "messages[2] tool_result of search"
        )
        size = int(lever.text.split(" tokens of turn 2")[0].rpartition(": ")[2].replace(",", ""))
        assert f"re-sent on 8 turns: {8 * size:,} tokens" in lever.text
        assert "% of the run" in lever.text
        assert "dropping it from turn 3 on saves" in lever.text
        assert lever.tokens == -8 * size
        price = Decimal("3") / 1_000_000
        assert lever.cost_usd == pytest.approx(-8 * size * price), "uncached: every token at the full price"

    def test_dropping_what_is_cached_saves_a_tenth_and_pays_for_the_rewrite(self) -> None:
        plain, cached = (
            next(one for one in levers(run, "context") if one.where == "messages[2] tool_result of search")
            for run in (run_of(DRAGGING, UNMARKED), run_of(DRAGGING))
        )
        assert plain.cost_usd is not None
        assert cached.cost_usd is not None
        assert plain.cost_usd < cached.cost_usd <= 0
        assert float(cached.cost_usd) >= float(plain.cost_usd) / 9

    def test_growth_and_compaction(self) -> None:
        lever = next(one for one in levers(run_of(DRAGGING, UNMARKED), "context") if one.where == "messages")
        assert "the conversation of turns 1 to 10 grows steadily, by about" in lever.text
        assert "compacting it to a tenth after turn 2 would save" in lever.text
        assert "the summary's own cost included" in lever.text
        assert lever.cost_usd is not None
        assert lever.cost_usd < 0

    def test_a_summary_reads_what_is_cached_alone_from_the_cache(self) -> None:
        """Its call sends what the turn before sent, and reads nothing of a history without a breakpoint."""
        run = run_of(LONG_AGENT, unmark("messages"))
        lever = next(one for one in levers(run, "context") if one.where == "messages")
        after = int(lever.text.split("after turn ")[1].split(" ")[0])
        tokens = run.turns[after - 1].usage.tokens
        assert lever.tokens is not None
        summary = round(Decimal(-lever.tokens // (len(run.turns) - after)) / 9)
        spent = tokens.cache_read_input_tokens * Decimal("0.30") + tokens.input_tokens * 3 + summary * 15
        assert lever.cost_usd == pytest.approx((lever.tokens * 3 + spent) / 1_000_000, rel=Decimal("0.001"))

    @pytest.mark.parametrize("steps", [(UNMARKED,), ()], ids=["uncached", "cached"])
    def test_a_compaction_saves_what_a_simulation_of_it_would(self, steps: Sequence[Any]) -> None:
        """Nine tenths of the history, on every later turn at the price of what it was read at then."""
        run = run_of(LONG_AGENT, *steps)
        lever = next(one for one in levers(run, "context") if one.where == "messages")
        after = int(lever.text.split("after turn ")[1].split(" ")[0])
        prompts = [turn.usage.tokens.prompt_tokens for turn in run.turns]
        assert lever.tokens is not None
        kept = -lever.tokens // (len(prompts) - after)
        reading = Decimal("3") if steps else Decimal("0.30")
        writing = Decimal(0) if steps else Decimal("3.75")
        summary = round(Decimal(kept) / 9)
        spent = prompts[after - 1] * reading + summary * (Decimal(15) + writing)
        expected = (-lever.tokens * reading - spent) / 1_000_000
        assert lever.cost_usd == pytest.approx(-expected, rel=Decimal("0.001"))

    def test_a_conversation_that_grows_faster_and_faster(self) -> None:
        agent = support_agent(
            steps=[
                Step("", [("search", {"query": str(i)})], [PASSAGES * (1 + i * i // 5)]) for i in range(12)
            ]
        )
        lever = next(one for one in levers(run_of(agent, UNMARKED), "context") if one.where == "messages")
        assert "grows faster and faster" in lever.text

    def test_small_conversations_bring_no_advice(self) -> None:
        agent = support_agent(steps=[Step("Yes."), Step("No."), Step("Yes."), Step("No.")])
        assert levers(run_of(agent, UNMARKED), "context") == []

    def test_the_question_itself_is_never_to_be_dropped(self) -> None:
        agent = support_agent(opening=LONG, steps=[Step("Yes."), Step("No."), Step("Yes.")])
        assert all(one.where != "messages[0] user text" for one in levers(run_of(agent, UNMARKED), "context"))


class TestRouting:
    def test_short_answers_without_tools_are_priced_on_smaller_models(self) -> None:
        agent = support_agent(steps=[Step("Yes.", output=3)], system="Be brief.", tools=[], rolling=False)
        run = run_of(agent, put(model="claude-opus-4-8"))
        (lever,) = levers(run, "routing")
        prompt = run.turns[0].usage.tokens.prompt_tokens
        assert lever.where == "turn 1"
        assert "on claude-sonnet-4-6" in lever.text
        assert "on claude-haiku-4-5" in lever.text
        assert "not a judgement of quality" in lever.text
        sonnet = Usage.of(Rate("claude-sonnet-4-6"), Tokens(input_tokens=prompt, output_tokens=3))
        assert lever.cost_usd == pytest.approx((cost(sonnet) or 0) - dollars(run))

    def test_the_last_turn_of_a_loop_of_tools_is_left_out(self) -> None:
        agent = support_agent(
            steps=[Step("", [("search", {"query": "q"})], ["r"], output=20), Step("Short.", output=9)]
        )
        assert levers(run_of(agent, put(model="claude-opus-4-8")), "routing", worth=Fraction(0)) == []

    def test_turns_that_use_tools_or_answer_at_length_are_left_out(self) -> None:
        agent = support_agent(
            steps=[Step("", [("search", {"query": "q"})], ["r"], output=20), Step("Long.", output=900)]
        )
        assert levers(run_of(agent), "routing") == []

    def test_what_the_cache_makes_cheaper_already_is_not_told(self) -> None:
        agent = support_agent(steps=[Step("Yes."), *(Step("No.", output=3) for _ in range(9))])
        for lever in levers(run_of(agent), "routing", worth=Fraction(0)):
            assert lever.cost_usd is not None
            assert lever.cost_usd < 0


class TestBatching:
    def test_half_price_and_what_the_cache_then_is(self) -> None:
        run = run_of(support_agent())
        (lever,) = levers(run, "batching", batchable=True)
        assert lever.cost_usd == pytest.approx(-dollars(run) / 2)
        assert "best effort" in lever.text
        assert "takes 4 rounds" in lever.text

    def test_only_where_it_is_wanted(self) -> None:
        assert levers(run_of(support_agent()), "batching") == []


class TestParallelism:
    def test_independent_calls(self) -> None:
        parts = ("saddle", "chain", "pump")
        agents = [
            support_agent(opening=f"Look into the {part}.", steps=[Step(f"The {part} is fine.")])
            for part in parts
        ]
        bodies, answers = several(*agents)
        run = replay(record(bodies, answers), bodies)
        (lever,) = levers(run, "parallelism")
        assert lever.where == "turns 1-3"
        assert "3 calls, none of which holds an earlier one's answer" in lever.text

    @pytest.mark.parametrize(
        "second",
        ["They said: The saddle needs a new clamp. Write it up.", "Write up: the saddle needs\na new clamp."],
        ids=["verbatim", "in other white space"],
    )
    def test_a_call_that_holds_the_answer_before_it(self, second: str) -> None:
        first = support_agent(opening="Look into the saddle.", steps=[Step("the saddle needs a new clamp.")])
        then = support_agent(opening=second.replace("The saddle", "the saddle"), steps=[Step("Done.")])
        bodies, answers = several(first, then)
        assert levers(replay(record(bodies, answers), bodies), "parallelism") == []

    def test_a_call_that_a_tool_use_asked_for(self) -> None:
        asks = Step("", [("task", {"prompt": "Research the pump of this brand."})], ["fine"])
        main = support_agent(steps=[asks])
        child = support_agent(opening="Research the pump of this brand.", steps=[Step("It is fine.")])
        bodies, answers = several(main, child)
        assert levers(replay(record(bodies, answers), bodies), "parallelism") == []

    def test_a_conversation_is_no_parallelism(self) -> None:
        assert levers(run_of(support_agent()), "parallelism") == []


class TestOutliers:
    @staticmethod
    def turn(tokens: int, dollars_per_million: int | None = 3) -> Spend:
        per_million = None if dollars_per_million is None else Decimal(dollars_per_million)
        return Spend(tokens, None if per_million is None else per_million * tokens / 1_000_000)

    def test_shares_and_what_is_far_from_the_rest(self) -> None:
        suite = {f"test_{i}": [self.turn(1000 + 10 * i)] for i in range(19)}
        suite["test_big"] = [self.turn(20_000)] * 2
        few, *turns = outliers(suite)
        assert few.where == "suite"
        assert few.text == "5.0% of scenarios, 65.9% of spend: test_big"
        assert (few.tokens, few.cost_usd) == (40_000, Decimal("0.12"))
        ((far, times),) = far_above({name: float(spent.tokens) for name, (spent, *_) in suite.items()})
        assert (far, round(times)) == ("test_big", 18)
        assert [one.text for one in turns] == [
            "turn 1 of test_big alone holds 32.9% of the suite",
            "turn 2 of test_big alone holds 32.9% of the suite",
        ]

    def test_by_tokens_where_a_price_is_unknown(self) -> None:
        suite = {f"test_{i}": [self.turn(1000)] for i in range(9)} | {"test_new": [self.turn(1000, None)]}
        few = next(iter(outliers(suite)))
        assert "of tokens" in few.text
        assert few.tokens == 1000

    def test_a_few_scenarios_are_no_distribution(self) -> None:
        assert list(outliers({"a": [self.turn(1)], "b": [self.turn(10**6)]})) == []
        assert list(outliers({})) == []
        assert list(outliers({f"test_{i}": [] for i in range(9)})) == []

    def test_equal_scenarios_have_no_outlier(self) -> None:
        found = list(outliers({f"test_{i}": [self.turn(1000)] for i in range(20)}))
        assert [one.where for one in found] == ["suite"]

    def test_scenarios_that_cost_nothing(self) -> None:
        suite = {f"test_{i}": [self.turn(0)] for i in range(9)}
        assert list(outliers(suite)) == []
        assert next(iter(outliers(suite | {"test_a": [self.turn(10)]}))).where == "suite"


def test_the_largest_saving_comes_first_and_the_month_is_told() -> None:
    found = advise(
        lay_out(run_of(DRAGGING, UNMARKED), cost, runs_per_month=1000),
        cheaper=lambda model: CHEAPER.get(model, ()),
        batchable=True,
    )
    amounts = [one.cost_usd for one in found if one.cost_usd is not None]
    assert amounts == sorted(amounts)
    assert all("a month" in one.text for one in found if one.kind in ("lever_caching", "lever_batching"))


def test_below_the_set_share_nothing_is_told() -> None:
    found = advise(lay_out(run_of(subagents()), cost), cheaper=lambda _: (), worth=Fraction(99, 100))
    assert [one.kind for one in found if one.cost_usd is not None] == []


def test_a_run_without_turns_has_no_levers() -> None:
    assert advise(lay_out(Run(), cost), cheaper=lambda _: ()) == ()


def test_a_run_that_left_its_recording_has_no_levers() -> None:
    agent = support_agent(steps=DRAGGING.steps)
    bodies = changed(agent.bodies(), each(UNMARKED))
    recorded = record(bodies, agent.answers())
    assert advise(lay_out(replay(recorded, bodies), cost), cheaper=lambda _: ())
    assert advise(lay_out(replay(recorded, bodies[:-1]), cost), cheaper=lambda _: ()) == ()


def test_turns_that_cannot_be_counted_are_left_out() -> None:
    pdf = {
        "type": "document",
        "source": {"type": "base64", "media_type": "application/pdf", "data": "JVBERi0="},
    }
    run = Case(
        "", each(lambda _, body: (contents(body), body["messages"][0]["content"].insert(0, dict(pdf))))
    ).run()
    assert advise(lay_out(run, cost), cheaper=lambda _: ()) == ()
