"""Generated edits of an agent, against what the changed agent really bills: no false alarm, no silent pass.

`make test-edits` runs all of them: their number is that of the tests. `make test` draws a tenth.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import pytest

from pytest_tokenbudget.budget.verdict import Judgement, judge
from pytest_tokenbudget.diagnosis.volatile import (
    Suspect,
    clocked,
    experiment,
    proved_volatile,
    same_turns,
    suspects,
    ticking,
    timed_as_recorded,
)
from pytest_tokenbudget.metering.meter import Meter, Run
from pytest_tokenbudget.model import FindingKind, Usage, Verdict
from pytest_tokenbudget.settings import ScenarioSettings
from pytest_tokenbudget.sources import SourceTree
from pytest_tokenbudget.wire.exchange import Exchange, Pair, Request
from pytest_tokenbudget.wire.prompt import Prompt
from support.blocks import EPHEMERAL, text, user
from support.sample import tenth
from support.seeded import (
    COUNTER,
    FILES,
    Agent,
    Body,
    asking,
    changed,
    contents,
    cost,
    findings,
    record,
    request,
    results,
    support_agent,
    tool,
    usages,
)

SETTINGS = ScenarioSettings()
WORDS = ("agent", "customer", "parcel", "refund", "order", "policy", "answer", "late", "damaged", "courier")
Edit = Callable[[random.Random, str], Callable[[int, Body], Body | None]]
"""Makes a change of every turn's body out of dice and what a process fills in anew: a seed of its own."""


@dataclass(frozen=True)
class Case:
    """One edit, of an agent that was recorded warm or cold."""

    kind: str
    seed: int
    warm: bool

    def __str__(self) -> str:
        return f"{self.kind}-{self.seed}-{'warm' if self.warm else 'cold'}"


def sentence(dice: random.Random, words: int = 9) -> str:
    return " ".join(dice.choice(WORDS) for _ in range(words)).capitalize() + "."


# --- edits that cost no more than their own tokens ---------------------------------------------------------


def in_system(edit: Callable[[list[str], random.Random], None]) -> Edit:
    """An edit of the lines of the system prompt, the same in every process."""

    def made(dice: random.Random, _: str) -> Callable[[int, Body], Body]:
        seed = dice.random()

        def change(_: int, body: Body) -> Body:
            lines = body["system"][0]["text"].split("\n")
            edit(lines, random.Random(seed))
            body["system"][0]["text"] = "\n".join(lines)
            return body

        return change

    return made


def at(lines: list[str], dice: random.Random) -> int:
    return dice.randrange(2, len(lines) - 3)


def put(lines: list[str], dice: random.Random, line: str) -> None:
    lines.insert(at(lines, dice), line)


def rewrite(lines: list[str], dice: random.Random, how: Callable[[str], str]) -> None:
    place = at(lines, dice)
    lines[place] = how(lines[place])


def swap(lines: list[str], dice: random.Random) -> None:
    one, other = at(lines, dice), at(lines, dice)
    lines[one], lines[other] = lines[other], lines[one]


def in_tools(edit: Callable[[list[Body], random.Random], None]) -> Edit:
    def made(dice: random.Random, _: str) -> Callable[[int, Body], Body]:
        seed = dice.random()

        def change(_: int, body: Body) -> Body:
            edit(body["tools"], random.Random(seed))
            return body

        return change

    return made


def describe(tools: list[Body], dice: random.Random) -> None:
    dice.choice(tools)["description"] = sentence(dice, 12)


def parameter(tools: list[Body], dice: random.Random) -> None:
    schema = dice.choice(tools)["input_schema"]
    schema["properties"]["limit"] = {"anyOf": [{"type": "integer"}, {"type": "null"}], "default": 10}


def keys(tools: list[Body], dice: random.Random) -> None:
    del dice
    for each in tools:
        each["input_schema"]["required"] = each["input_schema"].pop("required")


def split(lines: list[str], dice: random.Random) -> None:
    place = at(lines, dice)
    lines[place : place + 1] = [lines[place][:20], lines[place][20:]]


def each(change: Callable[[int, Body, random.Random, str], Any]) -> Edit:
    """A change of every body in place, by its turn, dice and the seed of the process."""

    def made(dice: random.Random, process: str) -> Callable[[int, Body], Body]:
        seed = dice.random()

        def changes(turn: int, body: Body) -> Body:
            change(turn, body, random.Random(seed), process)
            return body

        return changes

    return made


def every_line(body: Body, line: Callable[[int], str]) -> None:
    lines = body["system"][0]["text"].split("\n")
    body["system"][0]["text"] = "\n".join(line(n) if text else text for n, text in enumerate(lines))


def german(number: int, dice: random.Random) -> str:
    words = ("Kunde", "Paket", "Erstattung", "Bestellung", "Richtlinie", "Verspätung")
    return f"{number}. Schlage nach, bevor du antwortest: {' '.join(dice.choice(words) for _ in range(9))}."


def shrink(body: Body) -> None:
    lines = body["system"][0]["text"].split("\n")
    body["system"][0]["text"] = "\n".join(lines[:20] + lines[40:])


def example_blocks(body: Body, dice: random.Random) -> None:
    words = "\n".join(sentence(dice) for _ in range(90))
    contents(body)
    body["messages"][0]["content"].insert(0, text(words))


def system_first(body: Body) -> None:
    """Move the system prompt into the first message, with its breakpoint."""
    contents(body)
    body["messages"][0]["content"].insert(0, body.pop("system")[0])


def prune(body: Body) -> None:
    for block in results(body)[:-1]:
        block["content"] = "[pruned]"


def without(body: Body, place: str) -> None:
    (body["system"][0] if place == "system" else contents(body)[-1]).pop("cache_control")


def toggle(body: Body, turn: int) -> None:
    if turn % 2:
        body["tool_choice"] = {"type": "any"}


HARMLESS: dict[str, Edit] = {
    "nothing": in_system(lambda lines, dice: None),
    "reworded": in_system(lambda lines, dice: rewrite(lines, dice, lambda _: sentence(dice))),
    "added": in_system(lambda lines, dice: put(lines, dice, sentence(dice))),
    "removed": in_system(lambda lines, dice: lines.pop(at(lines, dice)) and None),
    "moved": in_system(swap),
    "shouted": in_system(lambda lines, dice: rewrite(lines, dice, str.upper)),
    "split": in_system(split),
    "a number": in_system(lambda lines, dice: put(lines, dice, f"Ask at most {dice.randrange(9)} times.")),
    "a path": in_system(lambda lines, dice: put(lines, dice, f"Read /srv/{dice.choice(WORDS)}/notes.")),
    "a date": in_system(lambda lines, dice: put(lines, dice, f"From 2026-{dice.randrange(10, 13)}-01 on.")),
    "an id": in_system(lambda lines, dice: put(lines, dice, f"Tenant {dice.randbytes(8).hex()}.")),
    "an address": in_system(lambda lines, dice: put(lines, dice, f"See https://{dice.choice(WORDS)}.com")),
    "JSON": in_system(lambda lines, dice: put(lines, dice, f'{{"basic": {dice.randrange(9)}, "gold": 7}}')),
    "translated": in_system(lambda lines, dice: rewrite(lines, dice, lambda _: "Antworte dem Kunden kurz.")),
    "a description": in_tools(describe),
    "a parameter": in_tools(parameter),
    "keys in another order": in_tools(keys),
    "reworded, and its file moved": in_system(
        lambda lines, dice: rewrite(lines, dice, lambda _: sentence(dice))
    ),
    "moved, and its module renamed": in_system(swap),
    "a description, and its file moved": in_tools(describe),
    "added, and all of it moved into a package": in_system(
        lambda lines, dice: put(lines, dice, sentence(dice))
    ),
    "swapped, and all of it moved into a package": in_system(swap),
    "an id, and all of it moved into a package": in_system(
        lambda lines, dice: put(lines, dice, f"Tenant {dice.randbytes(8).hex()}.")
    ),
    "shrunk": each(lambda turn, body, dice, _: shrink(body)),
    "the system prompt first in the messages": each(lambda turn, body, dice, _: system_first(body)),
    "examples in a block of their own": each(lambda turn, body, dice, _: example_blocks(body, dice)),
    "a smaller model": each(lambda turn, body, dice, _: body.update(model="claude-haiku-4-5")),
}


# --- changes that make the live run dearer -----------------------------------------------------------------


def front(body: Body, line: str) -> None:
    body["system"][0]["text"] = f"{line}\n{body['system'][0]['text']}"


def unmarked(body: Body) -> None:
    for block in (*body["system"], *contents(body)):
        block.pop("cache_control", None)


def hourly(body: Body) -> None:
    for block in (*body["system"], *contents(body)):
        if "cache_control" in block:
            block["cache_control"] = {"type": "ephemeral", "ttl": "1h"}


def enum(body: Body, dice: random.Random) -> None:
    values = [sentence(dice, 4) for _ in range(80)]
    body["tools"][0]["input_schema"]["properties"]["topic"] = {"type": "string", "enum": values}


def page(body: Body, dice: random.Random) -> None:
    for block in results(body)[:1]:
        block["content"] = "<html>" + "".join(f"<p>{sentence(dice)}</p>" for _ in range(120)) + "</html>"


def examples(body: Body, dice: random.Random) -> None:
    block = contents(body)[0]
    block["text"] = "\n".join(sentence(dice) for _ in range(90)) + "\n" + block["text"]


def in_message(body: Body) -> None:
    moved = body.pop("system")[0]["text"]
    block = contents(body)[0]
    block["text"] = f"{moved}\n{block['text']}"
    for other in contents(body):
        other.pop("cache_control", None)


def fresh(seed: str) -> str:
    """Return an id that a process fills in anew."""
    return random.Random(seed).randbytes(8).hex()


def shuffled(body: Body, seed: str) -> None:
    random.Random(seed).shuffle(body["tools"])


DEARER: dict[str, Edit] = {
    "grown": each(lambda turn, body, dice, _: front(body, "\n".join(sentence(dice) for _ in range(40)))),
    "a fat enum": each(lambda turn, body, dice, _: enum(body, dice)),
    "tools added": each(
        lambda turn, body, dice, _: body["tools"].extend(
            tool(f"t{n}", sentence(dice, 30), a=sentence(dice)) for n in range(6)
        )
    ),
    "a page as a result": each(lambda turn, body, dice, _: page(body, dice)),
    "examples": each(lambda turn, body, dice, _: examples(body, dice)),
    "no marker": each(lambda turn, body, dice, _: unmarked(body)),
    "system in a message": each(lambda turn, body, dice, _: in_message(body)),
    "a larger model": each(lambda turn, body, dice, _: body.update(model="claude-opus-4-8")),
    "a counter": each(lambda turn, body, dice, _: front(body, f"Step {turn + dice.randrange(90)} of many.")),
    "a clock a turn": each(
        lambda turn, body, dice, _: front(body, f"It is 10:{dice.randrange(10, 50) + turn}.")
    ),
    "an id a turn": each(
        lambda turn, body, dice, process: front(
            body, f"Request {random.Random(f'{turn}{process}').randbytes(8).hex()}."
        )
    ),
    "tools shuffled a turn": each(lambda turn, body, dice, _: shuffled(body, f"{dice.random()}{turn}")),
    "translated": each(lambda turn, body, dice, _: every_line(body, lambda n: german(n, dice))),
    "a fat tool": each(
        lambda turn, body, dice, _: body["tools"][1].update(
            description=sentence(dice, dice.randrange(200, 500))
        )
    ),
    "history pruned": each(lambda turn, body, dice, _: prune(body)),
    "an hour": each(lambda turn, body, dice, _: hourly(body)),
    "tool_choice toggled": each(lambda turn, body, dice, _: toggle(body, turn)),
    "no marker in the messages": each(lambda turn, body, dice, _: without(body, "messages")),
}
BETWEEN_RUNS: dict[str, Edit] = {
    "a clock a run": each(
        lambda turn, body, dice, process: front(
            body, f"It is 10:{random.Random(process).randrange(10, 59)}:07."
        )
    ),
    "an id a run": each(lambda turn, body, dice, process: front(body, f"Session {fresh(process)}.")),
    "a folder a run": each(
        lambda turn, body, dice, process: front(
            body, f"Work in /tmp/run-{random.Random(process).randbytes(4).hex()}."
        )
    ),
    "tools in hash order": each(lambda turn, body, dice, process: shuffled(body, process)),
}
NOW, ELSEWHERE, BEFORE = "now", "elsewhere", "before"
"""Seeds of three processes: the one that is judged, the second replay, and the one that warmed the cache."""


# --- what is recorded, asked and judged ---------------------------------------------------------------------


@dataclass(frozen=True)
class Outcome:
    """What an edit comes to, and what it really costs."""

    measured: Judgement
    truth: Judgement
    run: Run
    real: Usage

    @property
    def over(self) -> set[str]:
        return {limit.metric for limit in self.measured.limits if limit.over}

    @property
    def truly_over(self) -> set[str]:
        return {limit.metric for limit in self.truth.limits if limit.over}


def agent_of(case: Case) -> Agent:
    steps = support_agent().steps
    return support_agent(steps=steps[: 2 + case.seed % 3])


def warmed(bodies: Sequence[Body], outputs: Sequence[int], before: Body) -> list[Usage]:
    """What the API bills for these turns after another conversation over the prompt of `before`."""
    *context, _ = contents(copy.deepcopy(before))[: len(before["messages"][0]["content"])]
    asks = user(*context, text("Something else.", cache_control=EPHEMERAL))
    other = request({**before, "messages": [asks]})
    return usages([other, *map(request, bodies)], [1, *outputs])[1:]


REPLAY = Meter(COUNTER, volatile=proved_volatile, timed=timed_as_recorded)
SECOND_REPLAY = Meter(
    COUNTER,
    volatile=partial(proved_volatile, time_goes_by=True),
    timed=partial(timed_as_recorded, time_goes_by=True),
)
"""In which time goes by."""


def outcome(case: Case, edit: Edit) -> Outcome:
    agent = agent_of(case)
    bodies, answers = agent.bodies(), agent.answers()
    recorded = record(bodies, answers, warm=case.warm)
    sides = {}
    for process in (NOW, ELSEWHERE, BEFORE):
        sides[process] = changed(bodies, edit(random.Random(str(case)), process))
    outputs = [output for _, output in answers]
    if case.warm:
        real = warmed(sides[NOW], outputs, sides[BEFORE][0])
    else:
        real = usages([*map(request, sides[NOW])], outputs)
    baseline = sum((exchange.answer.usage or Usage() for exchange in recorded), Usage())
    asked = [*map(request, sides[NOW])]
    run = asking(recorded, asked, REPLAY)
    measured = judged(baseline, run)
    if not measured.verdict.fails:
        second, tree = [*map(request, sides[ELSEWHERE])], tree_of(case.kind)
        measured, run = after_second_replay(baseline, recorded, asked, run, second, tree)
    total = sum(real, Usage())
    return Outcome(measured, judge(baseline, total, SETTINGS, cost), run, total)


def judged(baseline: Usage, run: Run) -> Judgement:
    return judge(
        baseline,
        run.usage,
        SETTINGS,
        cost,
        departure=run.departure,
        best=run.best,
        unbounded=run.is_unbounded,
    )


def after_second_replay(
    baseline: Usage,
    recorded: Sequence[Exchange],
    asked: Sequence[Request],
    run: Run,
    second: Sequence[Request],
    tree: SourceTree,
) -> tuple[Judgement, Run]:
    """Judge a run again with what a second replay proves lost, or where its turns differ as time goes by."""
    pairs = [turn.pair for turn in run.turns]
    proved = {id(suspect.now) for suspect, _ in proved_elsewhere(suspects(pairs), second, tree, proves=True)}
    if ticking([*proved_elsewhere(clocked(pairs), second, tree)]):
        lost = asking(recorded, second, SECOND_REPLAY)
    else:

        def volatile(pairs: Sequence[Pair]) -> frozenset[int]:
            lost = {pair.index for pair in pairs if id(pair.request.prompt) in proved}
            return proved_volatile(pairs) | lost

        lost = asking(recorded, asked, replace(REPLAY, volatile=volatile))
    verdict = judged(baseline, lost)
    return (verdict, lost) if verdict.verdict.fails else (judged(baseline, run), run)


def proved_elsewhere(
    found: Sequence[Suspect], second: Sequence[Request], tree: SourceTree, *, proves: bool = False
) -> Iterator[tuple[Suspect, Prompt]]:
    """Yield what is suspected with its turn of the second replay, where no accepted value is of its kind.

    With `proves` only those that differ there.
    """
    by_prompt = {id(suspect.now): suspect for suspect in found}
    for now, other in same_turns([suspect.now for suspect in found], [one.prompt for one in second]):
        shown = experiment(by_prompt[id(now)], other, tree.lists)
        if not shown.on_both_sides and (shown.differs or not proves):
            yield by_prompt[id(now)], other


TREE = SourceTree(FILES)
MOVED = SourceTree({f"shop/{path.replace('agent', 'desk')}": text for path, text in FILES.items()})
"""The same repository, after all its files were moved, and its modules renamed."""
ELSEWHERE_ALL = SourceTree({"agent/agent.py": "from shop_prompts import handbook, tools\n"})
"""The repository after its texts were moved into a package, which git does not know."""


def tree_of(kind: str) -> SourceTree:
    """Return what the repository holds once an edit of this kind is made."""
    if kind.endswith("a package"):
        return ELSEWHERE_ALL
    return MOVED if kind.endswith(("moved", "renamed")) and "," in kind else TREE


LOUD = {Verdict.OVER, Verdict.UNKNOWN, Verdict.STALE}


def cases(kinds: Sequence[str], seeds: int, temperatures: Sequence[bool] = (False, True)) -> list[Case]:
    whole = [Case(kind, seed, warm) for kind in kinds for seed in range(seeds) for warm in temperatures]
    return tenth(whole, of=" ".join(kinds))


@pytest.mark.parametrize("case", cases([*HARMLESS], 9), ids=str)
def test_an_edit_is_charged_for_its_own_tokens_alone(case: Case) -> None:
    """486 edits. A limit that is passed is passed by the real run of the changed agent too."""
    found = outcome(case, HARMLESS[case.kind])
    assert found.over <= found.truly_over, found.measured
    if found.measured.verdict != Verdict.STALE:
        assert (found.measured.verdict == Verdict.OVER) == bool(found.over)


@pytest.mark.parametrize("case", cases([*DEARER], 8), ids=str)
def test_what_makes_the_live_run_dearer_does_not_pass(case: Case) -> None:
    """288 changes that make the real run dearer by more than the tolerance, those that do not left out."""
    found = outcome(case, DEARER[case.kind])
    if found.truth.verdict == Verdict.OVER:
        assert found.measured.verdict in LOUD, found


@pytest.mark.parametrize("case", cases([*BETWEEN_RUNS], 6, [True]), ids=str)
def test_what_is_lost_between_runs_is_proved_where_the_recording_was_warm(case: Case) -> None:
    found = outcome(case, BETWEEN_RUNS[case.kind])
    assert found.truth.verdict == Verdict.OVER
    assert found.measured.verdict == Verdict.OVER, found


@pytest.mark.parametrize("case", cases([*BETWEEN_RUNS], 6, [False]), ids=str)
def test_what_is_lost_between_runs_is_named_where_the_recording_was_cold(case: Case) -> None:
    """The real run is no dearer, and so nothing is proved."""
    found = outcome(case, BETWEEN_RUNS[case.kind])
    assert found.measured.verdict in (Verdict.WITHIN, found.truth.verdict)
    assert FindingKind.VOLATILE in {finding.kind for finding in findings(found.run, TREE)}


# --- one edit of each kind: its numbers, its verdict and its cause -----------------------------------------


SYSTEM, TOOLS, BREAK, ODD = "growth system[0]", "tools", "cache_break", "volatile"
OF_KIND: dict[str, tuple[Edit, set[str]]] = {
    "grown": (DEARER["grown"], {SYSTEM}),
    "shrunk": (each(lambda turn, body, dice, _: shrink(body)), {SYSTEM}),
    "translated": (
        each(lambda turn, body, dice, _: every_line(body, lambda n: f"{n}. Schlage das Thema {n} nach.")),
        {SYSTEM},
    ),
    "tool added": (
        each(lambda turn, body, dice, _: body["tools"].append(tool("weather", sentence(dice, 60)))),
        {"growth tools[weather]"},
    ),
    "tool fattened": (
        each(lambda turn, body, dice, _: body["tools"][1].update(description=sentence(dice, 400))),
        {"growth tools[get_order].description"},
    ),
    "tools reordered": (each(lambda turn, body, dice, _: body["tools"].reverse()), {"volatile tools"}),
    "80 enum values": (DEARER["a fat enum"], {"growth tools[search].input_schema"}),
    "clock a turn": (
        each(
            lambda turn, body, dice, process: front(
                body, f"It is {random.Random(process).randrange(10, 24)}:{10 + turn}."
            )
        ),
        {"cache_break system[0]", SYSTEM},
    ),
    "clock a run": (BETWEEN_RUNS["a clock a run"], {SYSTEM}),
    "id a turn": (DEARER["an id a turn"], {"cache_break system[0]", SYSTEM}),
    "id a run": (BETWEEN_RUNS["an id a run"], {SYSTEM}),
    "tools shuffled": (DEARER["tools shuffled a turn"], {"cache_break tools"}),
    "tools in hash order": (BETWEEN_RUNS["tools in hash order"], set()),
    "system unmarked": (each(lambda turn, body, dice, _: without(body, "system")), set()),
    "messages unmarked": (
        each(lambda turn, body, dice, _: without(body, "messages")),
        {"cache_break the last message"},
    ),
    "no marker": (DEARER["no marker"], {"cache_break system[0]"}),
    "an hour": (each(lambda turn, body, dice, _: hourly(body)), {"cache_break system[0]"}),
    "tool_choice toggled": (
        each(lambda turn, body, dice, _: toggle(body, turn)),
        {"cache_break tool_choice", "growth tool_choice"},
    ),
    "a page as a result": (DEARER["a page as a result"], {"growth messages[2] tool_result of search"}),
    "examples before the question": (
        each(lambda turn, body, dice, _: example_blocks(body, dice)),
        {"growth messages[0] user text"},
    ),
    "model up": (DEARER["a larger model"], {"model_changed turns 1-4", "growth model"}),
    "model down": (
        each(lambda turn, body, dice, _: body.update(model="claude-haiku-4-5")),
        {"model_changed turns 1-4", "cache_break the last message"},
    ),
    "history pruned": (
        each(lambda turn, body, dice, _: prune(body)),
        {"cache_break messages[2] tool_result of search", "growth messages[2] tool_result of search"},
    ),
    "system in a message": (
        each(lambda turn, body, dice, _: system_first(body)),
        {"growth messages[0] user text", SYSTEM},
    ),
}


@pytest.mark.parametrize("warm", [False, True], ids=["cold", "warm"])
@pytest.mark.parametrize("kind", OF_KIND)
def test_a_kind_of_edit_costs_what_the_live_run_costs_and_has_its_cause(kind: str, warm: bool) -> None:
    """Four turns over a cached handbook, which a run before had cached (warm) or not.

    The live run counts by weights, without the 16 tokens that a forced tool adds to the end of a prompt.
    """
    edit, causes = OF_KIND[kind]
    found = outcome(Case(kind, 2, warm), edit)
    told = {f"{finding.kind} {finding.where}" for finding in findings(found.run, TREE)}
    assert causes <= told, told
    real = found.real.tokens
    assert found.run.usage.tokens.prompt_tokens == pytest.approx(real.prompt_tokens, rel=0.005)
    assert float(cost(found.run.usage) or 0) == pytest.approx(float(cost(found.real) or 0), rel=0.005)
    assert found.measured.verdict == found.truth.verdict
    assert found.over == found.truly_over


def test_the_generator_makes_what_it_says() -> None:
    """Of the dearer changes all but a few are dearer by more than the tolerance."""
    whole = [Case(kind, 0, warm) for kind in DEARER for warm in (False, True)]
    dearer = [outcome(case, DEARER[case.kind]).truth.verdict == Verdict.OVER for case in whole]
    assert sum(dearer) >= 0.8 * len(whole)
