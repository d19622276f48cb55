"""Calls that the recording does not have: counted behind placeholders, between bounds that hold the truth."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from support.blocks import text
from support.budgeted import Judged, Project
from support.messages_api import Charge, MessagesApi, tool_use
from support.sample import tenth
from support.scratch_suites import echo, make

AGENT = """
import os

import httpx2

URL = os.environ.get("ANTHROPIC_BASE_URL", "https://api.anthropic.com")


def call(messages, **options):
    body = {"model": "claude-haiku-4-5", "max_tokens": 60, "messages": messages, **options}
    answer = httpx2.post(f"{URL}/v1/messages", json=body, headers={"x-api-key": "k"}, timeout=600)
    return answer.raise_for_status().json()["content"][0]["text"]


def ask(words, **options):
    return call([{"role": "user", "content": words}], **options)
"""
SUITE = """
import os

import pytest
from agent import ask, call

CASE = os.environ.get("CASE", "")
TOOL = {"name": "grade", "input_schema": {"type": "object"}}


@pytest.mark.token_budget
def test_it():
    messages, note = [], ""
    for words in ("One", "Two", "Three"):
        messages.append({"role": "user", "content": words + note})
        said = call(messages)
        messages.append({"role": "assistant", "content": said})
        if CASE in ("reflects", "feeds back"):
            told = ask(f"Is it right to say {words}?")
            note = f" Mind that {told}" if CASE == "feeds back" else ""
        if CASE == "stops early" and words == "Two":
            break
    if CASE == "loops":
        while "OK" not in ask("Say OK.") and len(messages) < 10:
            messages.append(None)
    if CASE == "forced":
        ask("Is it right?", tools=[TOOL], tool_choice={"type": "any"})
    if CASE == "stops early":
        ask("Is it over?")
    assert CASE == "" or "never" in said
"""


class Scratch(Project):
    """A project with one scenario of three turns, recorded."""

    def __init__(self, path: Path, pytester: pytest.Pytester, api: MessagesApi) -> None:
        made = make(path / "suite", pytester, SUITE, agent=AGENT)
        super().__init__(made.path, pytester)
        self.api = api
        done = self.run("--token-budget", "--token-budget-record=once", "--token-budget-update", url=api.url)
        assert done.status == 0, done.output

    def live(self) -> tuple[int, int]:
        """Return the prompt and output tokens that the changed agent really bills."""
        before = len(self.api.charges)
        self.run("--token-budget-disable", url=self.api.url)
        spent = [charge.usage for charge in self.api.charges[before:]]
        return sum(usage.prompt_tokens for usage in spent), sum(usage.output_tokens for usage in spent)


@pytest.fixture
def scratch(tmp_path: Path, pytester: pytest.Pytester) -> Iterator[Scratch]:
    with MessagesApi(echo) as api:
        yield Scratch(tmp_path, pytester, api)


def texts(judged: Judged) -> dict[str, Any]:
    """Return the findings of the one scenario by their places."""
    return {finding["where"]: finding for finding in judged.scenarios["test_it"]["findings"]}


@pytest.mark.parametrize("case", ["reflects", "feeds back", "stops early"])
def test_the_truth_lies_between_the_bounds(
    scratch: Scratch, case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CASE", case)
    judged = scratch.judge()
    entry = judged.scenarios["test_it"]
    assert (judged.status, entry["verdict"]) == (1, "stale"), judged.output
    assert "AssertionError" not in judged.output, "what the test makes of a placeholder says nothing"
    least, most = entry["bounds"]["least"], entry["bounds"]["most"]
    prompt, output = scratch.live()
    assert least["prompt_tokens"] <= prompt <= most["prompt_tokens"]
    assert least["output_tokens"] <= output <= most["output_tokens"]
    assert least["cost_usd"] <= (prompt + 5 * output) / 1e6 <= most["cost_usd"]


def test_added_calls_are_counted_and_never_a_saving(
    scratch: Scratch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CASE", "reflects")
    judged = scratch.judge()
    found = texts(judged)
    assert "starts 3 conversations more than recorded" in found["added"]["text"]
    first = 'the first difference is messages[0] user text: was "One", now "Is it right to say One?"'
    assert found["added"]["text"].endswith(first)
    assert "removed" not in found
    entry = judged.scenarios["test_it"]
    added = entry["bounds"]["least"]["prompt_tokens"] - entry["baseline"]["prompt_tokens"]
    assert 0 < added < 60
    assert found["bounds"]["text"].startswith(f"as far as it can be told without recording: +{added}")


@pytest.mark.parametrize("case", ["loops", "forced"])
def test_where_no_placeholder_stands_in_nobody_knows_the_most(
    scratch: Scratch, case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A loop gets three, and a tool or a schema that is forced gets none; what repeats is counted once."""
    monkeypatch.setenv("CASE", case)
    judged = scratch.judge()
    entry = judged.scenarios["test_it"]
    assert (judged.status, entry["verdict"]) == (1, "stale"), judged.output
    assert entry["bounds"]["most"] is None
    assert entry["bounds"]["least"]["turns"] == 4
    assert "count at least " in texts(judged)["bounds"]["text"]


def test_the_settings_switch_placeholders_off(scratch: Scratch, monkeypatch: pytest.MonkeyPatch) -> None:
    (scratch.path / "pyproject.toml").write_text("[tool.tokenbudget]\nplaceholder = false\n", "utf-8")
    monkeypatch.setenv("CASE", "reflects")
    judged = scratch.judge()
    found = texts(judged)
    assert "starts 1 conversation more than recorded" in found["added"]["text"]
    assert (found["removed"]["tokens"], found["removed"]["cost_usd"]) == (None, None)
    assert "(as recorded: " in found["removed"]["text"]
    assert judged.scenarios["test_it"]["bounds"]["most"] is None


def test_a_plain_run_gets_no_placeholder(scratch: Scratch, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CASE", "reflects")
    plain = scratch.run()
    assert plain.status == 1
    assert "starts 1 conversation more than recorded" in plain.words


def test_turns_that_are_gone_and_nothing_else_are_a_saving(
    scratch: Scratch, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = scratch.path / "test_it.py"
    path.write_text(path.read_text("utf-8").replace('("One", "Two", "Three")', '("One",)'), "utf-8")
    judged = scratch.judge()
    gone = texts(judged)["removed"]
    assert gone["tokens"] < 0
    assert "bounds" not in judged.scenarios["test_it"]


WRITER_SUITE = """
import os

import pytest
from agent import ask

FOUND = ["The train at nine takes four hours and a half.", "The hotel has a room for three nights."]


@pytest.mark.token_budget
def test_it():
    found = [ask(f"Look into this: {words}") for words in FOUND]
    if os.environ.get("CASE"):
        found.append(ask("Criticise what was found: " + " ".join(FOUND), max_tokens=400))
    assert ask(" ".join([*FOUND, *found]), system="You write the itinerary out of what the team has found.")
"""


def test_an_answer_that_was_another_turns_is_no_part_of_what_is_known(
    tmp_path: Path, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The critique gets what the writer was answered, and the writer is then told that."""

    def answer(body: Mapping[str, Any]) -> str:
        if "system" in body:
            return "Take the train at nine, sleep three nights by the river, and be back by Sunday. " * 2
        return "Say the price." if body["messages"][0]["content"].startswith("Crit") else "It is so."

    project = make(tmp_path / "suite", pytester, WRITER_SUITE, agent=AGENT)
    with MessagesApi(answer) as api:
        done = project.run("--token-budget-record=once", url=api.url)
        assert done.status == 0, done.output
        project.judge("--token-budget-update")
        monkeypatch.setenv("CASE", "criticises")
        judged = project.judge()
        before = len(api.charges)
        project.run("--token-budget-disable", url=api.url)
        spent = api.charges[before:]
    entry = judged.scenarios["test_it"]
    assert (judged.status, entry["verdict"]) == (1, "stale"), judged.output
    bounds = entry["bounds"]
    truth = sum(charge.usage.prompt_tokens for charge in spent)
    assert bounds["least"]["prompt_tokens"] <= truth <= bounds["most"]["prompt_tokens"]
    assert bounds["least"]["cost_usd"] <= float(dollars(spent)) <= bounds["most"]["cost_usd"]
    assert "user text 'Criticise what was found" in texts(judged)["added"]["text"]


# --- seeded agents with calls more than recorded, held against what they really bill ----------------------

SEEDED = """
import json
import os
from concurrent.futures import ThreadPoolExecutor
from random import Random

import httpx2

URL = os.environ.get("ANTHROPIC_BASE_URL", "https://api.anthropic.com")
SONNET = "claude-sonnet-4-6"
RULES = " ".join(f"Rule {n}: look topic {n} up before you answer a customer." for n in range(110))
MARKED = {"cache_control": {"type": "ephemeral"}}
TOOL = {"name": "look_up", "description": "Look a topic up.", "input_schema": {"type": "object"}}


class Agent:
    def __init__(self, url=URL, kind="", seed=0):
        self.url, self.kind, self.dice = url, kind, Random(f"{kind} {seed}")

    def call(self, messages, tools=(), rules=RULES, model=SONNET, stream=False):
        body = {"model": model, "max_tokens": 90, "messages": messages}
        if rules:
            body["system"] = [{"type": "text", "text": rules, **MARKED}]
        if tools:
            body["tools"] = [*tools]
        if stream:
            body["stream"] = True
        answer = httpx2.post(f"{self.url}/v1/messages", json=body, headers={"x-api-key": "k"}, timeout=600)
        if not stream:
            return answer.raise_for_status().json()["content"]
        events = [json.loads(line[6:]) for line in answer.text.splitlines() if line.startswith("data: ")]
        return [{"text": "".join(event.get("delta", {}).get("text", "") for event in events)}]

    def say(self, words, **options):
        return self.call([{"role": "user", "content": words}], **options)[0]["text"]

    def loop(self, question, after=lambda result: ""):
        messages = [{"role": "user", "content": question}]
        while True:
            said = self.call(messages, [TOOL])
            messages.append({"role": "assistant", "content": said})
            used = [block for block in said if block["type"] == "tool_use"]
            if not used or (self.kind == "stops" and len(messages) > 2):
                return said[0]["text"]
            result = f"Page {len(messages)}: tighten the bolt and look again. " * 4
            result += after(result)
            shown = {"type": "tool_result", "tool_use_id": used[0]["id"], "content": result}
            messages.append({"role": "user", "content": [shown]})

    def until_ok(self):
        messages = [{"role": "user", "content": "Check what I say to the customer."}]
        for _ in range(self.dice.randrange(2, 5)):
            said = self.call(messages)[0]["text"]
            if "OK" in said:
                break
            messages += [{"role": "assistant", "content": said}, {"role": "user", "content": "Say it again."}]

    def vote(self, words):
        with ThreadPoolExecutor(3) as pool:
            list(pool.map(self.say, words))

    def reflect(self, result):
        rules = self.dice.choice([RULES, ""])
        noted = self.say(f"Is it right: {result}", rules=rules, stream=self.kind == "streams")
        return f" Mind: {noted}" if self.dice.random() < 0.5 else ""

    def run(self):
        kind = self.kind
        if kind == "plans":
            self.say("Plan how to answer.", rules=self.dice.choice([RULES, ""]))
        if kind == "researches":
            self.loop("Research the bolt.")
        reflects = kind in ("reflects", "streams")
        last = self.loop("My saddle is loose.", self.reflect if reflects else lambda _: "")
        if kind == "retries":
            self.until_ok()
        if kind == "subagent":
            self.loop("Research the bolt.")
        if kind == "another model":
            self.say(f"Grade this: {last}", model=self.dice.choice(["claude-opus-4-8", "claude-haiku-4-5"]))
        if kind == "summarizes":
            self.say(f"Sum it up: {last}", rules=RULES + " Be brief.")
        if kind == "votes":
            same = self.dice.random() < 0.5
            self.vote(["Is it right?"] * 3 if same else [f"Is part {n} right?" for n in "ABC"])
"""
SEEDED_SUITE = """
import os

import pytest
import vcr
from agent import Agent

agent = Agent(kind=os.environ.get("CASE", ""), seed=os.environ.get("SEED", "0"))


def test_it():
    with vcr.use_cassette("cassettes/it.yaml", match_on=MATCH):
        agent.run()
"""
OWN_SUITE = """
import os

import pytest
from agent import Agent


@pytest.mark.token_budget
def test_it():
    Agent(kind=os.environ.get("CASE", ""), seed=os.environ.get("SEED", "0")).run()
"""
KINDS = (
    "reflects",
    "streams",
    "plans",
    "retries",
    "subagent",
    "researches",
    "another model",
    "summarizes",
    "votes",
)
RECORDERS = {
    "own": OWN_SUITE,
    "vcrpy": SEEDED_SUITE.replace("MATCH", '["method", "path"]'),
    "vcrpy by body": SEEDED_SUITE.replace("MATCH", '["method", "path", "body"]'),
}
PRICES = {  # dollars a million tokens: input, 5m write, read, output
    "claude-sonnet-4-6": ("3", "3.75", "0.30", "15"),
    "claude-haiku-4-5": ("1", "1.25", "0.10", "5"),
    "claude-opus-4-8": ("5", "6.25", "0.50", "25"),
}


def answers(body: Mapping[str, Any]) -> str | list[dict[str, Any]]:
    """Say what the model says: two tool calls in a loop, then a text; 'OK' at the second try."""
    asked, turn = str(body["messages"][0]["content"]), len(body["messages"]) // 2
    if body.get("tools") and turn < 2:
        return [text(f"I look it up, step {turn}."), tool_use("look_up", page=turn)]
    if asked.startswith("Check"):
        return "OK." if turn else "Not yet."
    return f"Tighten it to {len(asked) % 9} newton metres, and ride on."


def dollars(charges: Iterable[Charge]) -> Decimal:
    """Price a ledger by the test's own list."""
    total = Decimal(0)
    for charge in charges:
        used = charge.usage
        counts = (used.input_tokens, used.ephemeral_5m_input_tokens)
        counts += (used.cache_read_input_tokens, used.output_tokens)
        total += sum(Decimal(p) * n for p, n in zip(PRICES[charge.model], counts, strict=True)) / 1_000_000
    return total


@dataclass(frozen=True)
class Added:
    """One agent with calls more than recorded."""

    kind: str
    seed: int
    recorder: str
    warm: bool

    def __str__(self) -> str:
        return f"{self.kind}-{self.seed}-{self.recorder}-{'warm' if self.warm else 'cold'}"


ADDED = [
    Added(kind, seed, recorder, warm)
    for kind in KINDS
    for seed in range(3)
    for recorder in RECORDERS
    for warm in (False, True)
]


@pytest.fixture(scope="module")
def seeded_agent() -> Any:
    """Return the class of the agent, to run it live in this process."""
    names: dict[str, Any] = {}
    exec(SEEDED, names)
    return names["Agent"]


@pytest.fixture(scope="module")
def templates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return where recorded projects are kept."""
    return tmp_path_factory.mktemp("templates")


Recorded = Callable[[Added], Project]


@pytest.fixture
def recorded(tmp_path: Path, pytester: pytest.Pytester, templates: Path, seeded_agent: Any) -> Recorded:
    """Return a function that makes a recorded project, a copy of its template, which is made once."""

    def copied(case: Added) -> Project:
        kept = templates / f"{case.recorder} {case.warm}"
        if not kept.exists():
            project = make(kept, pytester, RECORDERS[case.recorder], agent=SEEDED)
            with MessagesApi(answers) as api:
                if case.warm:
                    seeded_agent(api.url).loop("Another question.")
                assert project.run("--token-budget-record=once", url=api.url).status == 0
            done = project.judge("--token-budget-update")
            assert done.status == 0, done.output
        shutil.copytree(kept, tmp_path / "suite")
        return Project(tmp_path / "suite", pytester)

    return copied


@pytest.mark.parametrize("case", tenth(ADDED, of="added calls"), ids=str)
def test_the_interval_of_a_seeded_agent_holds_what_it_really_bills(
    case: Added, recorded: Recorded, seeded_agent: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = recorded(case)
    monkeypatch.setenv("CASE", case.kind)
    monkeypatch.setenv("SEED", str(case.seed))
    judged = project.judge()
    (entry,) = judged.scenarios.values()
    assert (judged.status, entry["verdict"]) == (1, "stale"), judged.output
    with MessagesApi(answers) as api:
        if case.warm:
            seeded_agent(api.url).loop("Another question.")
        before = len(api.charges)
        seeded_agent(api.url, case.kind, case.seed).run()
        spent = api.charges[before:]
    least, most = entry["bounds"]["least"], entry["bounds"]["most"]
    prompt, output = (
        sum(getattr(one.usage, f"{name}_tokens") for one in spent) for name in ("prompt", "output")
    )
    truth = {
        "turns": len(spent),
        "prompt_tokens": prompt,
        "output_tokens": output,
        "cost_usd": dollars(spent),
    }
    for name, value in truth.items():
        assert least[name] <= value, (name, least, truth)
        assert most is None or value <= most[name], (name, most, truth)
    assert most is not None or case.kind in ("subagent", "researches", "retries")


@pytest.mark.parametrize("warm", [False, True], ids=["cold", "warm"])
def test_calls_more_and_fewer_are_told_in_the_terminal(
    warm: bool, recorded: Recorded, seeded_agent: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = recorded(Added("", 0, "own", warm))
    monkeypatch.setenv("CASE", "plans")
    more = project.judge()
    assert more.status == 1
    lines = (project.path / "agent.py").read_text("utf-8").splitlines()
    (line,) = (number for number, text in enumerate(lines, 1) if "Plan how to answer." in text)
    assert (
        "the agent starts 1 conversation more than recorded: user text 'Plan how to answer.', from "
        f"agent.py:{line} * as far as it can be told without recording: +"
    ) in more.words
    assert "−" not in more.words, "nothing of it is a saving"
    assert "pytest --token-budget --token-budget-record=changed test_it.py::test_it" in more.words
    monkeypatch.setenv("CASE", "stops")
    fewer = project.judge()
    assert fewer.status == 1
    gone = texts(fewer)["removed"]
    said = "1 recorded turn is not asked for any more: user tool_result 'Page 4: tighten the bolt and"
    said += " look again.…'"
    assert f"{said} −{-gone['tokens']:,} tokens, −$" in fewer.words
    for judged in (more, fewer):
        assert "token budgets: 1 stale" in judged.output
    accepted = project.judge("--token-budget-update")
    assert "accepted test_it.py::test_it" in accepted.words
    assert project.judge().verdicts == {"within"}
    with MessagesApi(answers) as api:
        if warm:
            seeded_agent(api.url).loop("Another question.")
        before = len(api.charges)
        seeded_agent(api.url, "stops").run()
        spent = api.charges[before:]
    measured = accepted.scenarios["test_it"]["measured"]
    assert measured["prompt_tokens"] == sum(one.usage.prompt_tokens for one in spent)
    assert measured["cost_usd"] == pytest.approx(float(dollars(spent)))
