"""Recordings and runs for the tests of the diagnosis, built from request bodies through the true meter."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import Any

from pytest_tokenbudget.diagnosis import diagnose
from pytest_tokenbudget.metering.cache_split import Unsized, cheap_weights, prefix_sizes
from pytest_tokenbudget.metering.counting import BuiltinCounter, Memo
from pytest_tokenbudget.metering.meter import Meter, Run
from pytest_tokenbudget.metering.models import Family
from pytest_tokenbudget.metering.prompt_cache import CacheTurn, chain, simulate
from pytest_tokenbudget.model import Finding, Rate, Tokens, Usage
from pytest_tokenbudget.replay.pairing import Recording
from pytest_tokenbudget.sources import SourceTree
from pytest_tokenbudget.wire.exchange import Answer, Exchange, Pair, Request
from pytest_tokenbudget.wire.requests import read_request
from support.blocks import EPHEMERAL, text, user

Body = dict[str, Any]
Change = Callable[[int, Body], Body | None]
"""A turn's number and its body, to be changed in place or replaced; None drops the turn."""

MODEL = "claude-sonnet-4-6"
URL = "https://api.anthropic.com/v1/messages"
COUNTER = Memo(BuiltinCounter())
METER = Meter(COUNTER)

PRICES = {  # dollars a million tokens: input, 5m write, 1h write, read, output
    "claude-sonnet-4-6": ("3", "3.75", "6", "0.30", "15"),
    "claude-haiku-4-5": ("1", "1.25", "2", "0.10", "5"),
    "claude-opus-4-8": ("5", "6.25", "10", "0.50", "25"),
}


def cost(usage: Usage) -> Decimal | None:
    """Dollars of the test's own price list; None for what it does not hold."""
    total = Decimal(0)
    for rate, tokens in usage.by_rate.items():
        if rate.model not in PRICES:
            return None
        per_million = (
            tokens.input_tokens,
            tokens.ephemeral_5m_input_tokens,
            tokens.ephemeral_1h_input_tokens,
            tokens.cache_read_input_tokens,
            tokens.output_tokens,
        )
        factor = Decimal("0.5") if "batch" in rate.modifiers else Decimal(1)
        total += factor * sum(
            (Decimal(p) * n / 1_000_000 for p, n in zip(PRICES[rate.model], per_million, strict=True)),
            Decimal(0),
        )
    return total


def count(text: str) -> int:
    """Tokens of a text."""
    return COUNTER.count(text, Family.V3)


# --- bodies -----------------------------------------------------------------------------------------------


def tool(name: str, description: str, **properties: str) -> dict[str, Any]:
    schema = {
        "type": "object",
        "properties": {key: {"type": "string", "description": value} for key, value in properties.items()},
        "required": list(properties),
    }
    return {"name": name, "description": description, "input_schema": schema}


def result(id_: str, output: str, **more: Any) -> dict[str, Any]:
    return {"type": "tool_result", "tool_use_id": id_, "content": output, **more}


@dataclass
class Step:
    """One answer of the model, and what the agent's tools then return."""

    says: str = ""
    calls: Sequence[tuple[str, Mapping[str, Any]]] = ()
    returns: Sequence[str] = ()
    output: int = 40

    def blocks(self, number: int) -> list[dict[str, Any]]:
        said = [text(self.says)] if self.says else []
        uses = [
            {"type": "tool_use", "id": f"toolu_{number}_{i}", "name": name, "input": dict(arguments)}
            for i, (name, arguments) in enumerate(self.calls)
        ]
        return [*said, *uses]


@dataclass
class Agent:
    """An agent with a tool loop; `body` is what it sends beside the messages."""

    system: Any
    tools: list[dict[str, Any]]
    opening: Any
    steps: Sequence[Step]
    rolling: bool = True
    """Whether the last message is marked too, as agents with a growing conversation do."""
    more: Mapping[str, Any] = field(default_factory=dict)

    def bodies(self) -> list[Body]:
        """What it sends, turn by turn."""
        messages = [user(self.opening) if isinstance(self.opening, str) else user(*self.opening)]
        sent = []
        for number, step in enumerate(self.steps):
            sent.append(self._body(messages))
            messages.append({"role": "assistant", "content": step.blocks(number)})
            results = [result(f"toolu_{number}_{i}", output) for i, output in enumerate(step.returns)]
            messages.append(user(*results) if results else user("Go on."))
        return sent

    def answers(self) -> list[tuple[list[dict[str, Any]], int]]:
        return [(step.blocks(number), step.output) for number, step in enumerate(self.steps)]

    def _body(self, messages: Sequence[Mapping[str, Any]]) -> Body:
        body: Body = {"model": MODEL, "max_tokens": 1024, **self.more}
        if self.system:
            body["system"] = copy.deepcopy(self.system)
        if self.tools:
            body["tools"] = copy.deepcopy(self.tools)
        body["messages"] = copy.deepcopy(list(messages))
        if self.rolling:
            last = body["messages"][-1]
            if isinstance(last["content"], str):
                last["content"] = [text(last["content"])]
            last["content"][-1]["cache_control"] = dict(EPHEMERAL)
        return body


# --- recordings and runs ----------------------------------------------------------------------------------


def request(body: Body, **headers: str) -> Request:
    raw = json.dumps(body, separators=(",", ":"), ensure_ascii=False).encode()
    found = read_request("POST", URL, {"anthropic-version": "2023-06-01", **headers}, raw)
    assert found is not None
    return found


def usages(requests: Sequence[Request], outputs: Sequence[int]) -> list[Usage]:
    """What the API would bill: sizes by the built-in counter, the split by the cache's rules, from cold."""
    chains = [chain(one.prompt) for one in requests]
    weights = [cheap_weights(one, COUNTER) for one in chains]
    totals = [round(sum(w.fixed + w.share for w in weight)) for weight in weights]
    sizes = prefix_sizes([Unsized(c, t, w) for c, t, w in zip(chains, totals, weights, strict=True)], {})
    turns = [CacheTurn(c, s, t) for c, s, t in zip(chains, sizes, totals, strict=True)]
    return [
        Usage.of(
            Rate(one.prompt.model),
            Tokens(out.uncached, out.written_5m, out.written_1h, out.read, output),
        )
        for one, out, output in zip(requests, simulate(turns), outputs, strict=True)
    ]


def record(
    bodies: Sequence[Body], answers: Sequence[tuple[list[dict[str, Any]], int]], *, warm: bool = False
) -> list[Exchange]:
    """A recording of these turns; `warm` where another conversation over the same prompt had just begun."""
    requests = [request(body) for body in bodies]
    outputs = [output for _, output in answers]
    other = (
        [request({**bodies[0], "messages": [user(text("Something else.", cache_control=EPHEMERAL))]})]
        if warm
        else []
    )
    billed = usages([*other, *requests], [1 for _ in other] + outputs)[len(other) :]
    return [
        Exchange(
            one, Answer(200, {"role": "assistant", "content": content, "stop_reason": "end_turn"}, usage)
        )
        for one, (content, _), usage in zip(requests, answers, billed, strict=True)
    ]


def advised(recorded: Sequence[Exchange], advisor: Usage) -> list[Exchange]:
    """The same recording, where every answer asked another model too, which billed `advisor`."""
    return [
        replace(one, answer=replace(one.answer, usage=(one.answer.usage or Usage()) + advisor))
        for one in recorded
    ]


def replay(recorded: Sequence[Exchange], bodies: Sequence[Body], **headers: str) -> Run:
    """The run of an agent that sends `bodies` now."""
    return asking(recorded, [request(body, **headers) for body in bodies])


def asking(recorded: Sequence[Exchange], requests: Iterable[Request], meter: Meter | None = None) -> Run:
    """Return the run of an agent that makes these requests now, answered from what was recorded."""
    recording = Recording(recorded)
    for one in requests:
        recording.choose(one)
    return (meter or METER).replayed(
        recorded,
        recording.pairs,
        misses=recording.misses,
        unplayed=recording.unplayed,
        reshaped=recording.reshaped,
    )


def changed(bodies: Sequence[Body], change: Change) -> list[Body]:
    """The bodies, each changed."""
    sent = []
    for number, body in enumerate(bodies):
        mine = copy.deepcopy(body)
        after = change(number, mine)
        if after is not None:
            sent.append(after)
    return sent


def pairs(run: Run) -> list[Pair]:
    return [turn.pair for turn in run.turns]


def findings(run: Run, sources: SourceTree | None = None) -> tuple[Finding, ...]:
    return diagnose(run, cost=cost, count=count, sources=sources)


# --- the agent that is changed, and the repository that it lives in ----------------------------------------

RULES = "\n".join(
    f"{i}. When a customer asks about topic {i}, look it up before you answer, and cite the page."
    for i in range(1, 61)
)
HANDBOOK = (
    f"You are the support agent of a mail-order shop for bicycle parts.\n\n{RULES}\n\nNever promise a date.\n"
)
SEARCH = tool(
    "search",
    "Search the handbook for a topic and return its passages.",
    query="What to look for, in plain words.",
)
GET_ORDER = tool(
    "get_order", "Look up an order by its number.", order="Number of the order, FW- and five digits."
)
REFUND = tool(
    "refund", "Give a customer the money back.", order="Number of the order.", reason="Why, in one sentence."
)
PASSAGES = " ".join(
    f"Passage {i}: the saddle clamp is tightened to {i} newton metres and checked after a ride."
    for i in range(20)
)
QUESTION = "My saddle is loose. What do I do with order FW-10023?"

FILES = {
    "agent/prompts/handbook.md": HANDBOOK,
    "agent/tools.json": json.dumps([SEARCH, GET_ORDER, REFUND], indent=2),
    "agent/agent.py": 'def system(texts):\n    return "\\n".join(texts)\n',
    "tests/test_agent.py": f'def test_saddle(ask):\n    assert ask("{QUESTION}")\n',
    "README.md": "# Support agent\n\nAnswers the customers of a shop.\n",
}


def support_agent(**other: Any) -> Agent:
    """Four turns over a cached handbook and tools, and a conversation that is cached as it grows."""
    given: dict[str, Any] = {
        "system": [text(HANDBOOK, cache_control=EPHEMERAL)],
        "tools": [SEARCH, GET_ORDER, REFUND],
        "opening": QUESTION,
        "steps": [
            Step("Let me look.", [("search", {"query": "saddle"})], [PASSAGES]),
            Step(
                "", [("get_order", {"order": "FW-10023"})], ["FW-10023: saddle and bolt, delivered on 3 May."]
            ),
            Step("", [("search", {"query": "torque"})], [PASSAGES.replace("saddle", "bolt")]),
            Step("Tighten it to 12 newton metres."),
        ],
    }
    return Agent(**given | other)


def several(*agents: Agent) -> tuple[list[Body], list[tuple[list[dict[str, Any]], int]]]:
    """The bodies and answers of agents that run one after the other in one scenario."""
    return [body for one in agents for body in one.bodies()], [a for one in agents for a in one.answers()]


def contents(body: Body) -> list[dict[str, Any]]:
    """Every content block of the messages; a string becomes a block."""
    for message in body["messages"]:
        if isinstance(message["content"], str):
            message["content"] = [text(message["content"])]
    return [block for message in body["messages"] for block in message["content"]]


def results(body: Body) -> list[dict[str, Any]]:
    return [block for block in contents(body) if block["type"] == "tool_result"]


def subagents(**other: Any) -> Agent:
    """Three conversations over one handbook and the same tools, told as one agent."""
    parts = ("saddle", "chain", "pump")
    bodies, answers = several(
        *(support_agent(opening=f"Research the {part} for us.", **other) for part in parts)
    )

    class Several(Agent):
        def bodies(self) -> list[Body]:
            return copy.deepcopy(bodies)

        def answers(self) -> list[tuple[list[dict[str, Any]], int]]:
            return answers

    return Several(None, [], "", [])
