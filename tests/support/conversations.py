"""Agents of the tests: they record by talking to a made-up model, and replay by asking a Recording."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from pytest_tokenbudget.model import Rate, Tokens, Usage
from pytest_tokenbudget.replay.pairing import Match, Recording
from pytest_tokenbudget.wire.exchange import Answer, Exchange, Request
from pytest_tokenbudget.wire.requests import read_request
from support.blocks import user

Body = dict[str, Any]
Message = dict[str, Any]
Change = Callable[[Body, "Agent"], Body]

URL = "https://api.anthropic.com/v1/messages"
MODEL = "claude-sonnet-4-5"
TOOLS = [{"name": "look_up", "description": "Look up an order by its number.", "input_schema": {}}]
BILLED = Usage.of(Rate(MODEL), Tokens(input_tokens=100, output_tokens=10))
POLICY = "You answer customers of a shop. Be brief and kind, and cite the policy that applies. "


def body(messages: Sequence[Message] | str, **more: Any) -> Body:
    """A request body; a string is the only message."""
    if isinstance(messages, str):
        messages = [user(messages)]
    return {"model": MODEL, "max_tokens": 100, "system": POLICY, "tools": TOOLS, "messages": messages, **more}


def said(content: Any) -> Message:
    return {"role": "assistant", "content": content}


def result(id_: str, text: str) -> Message:
    return {"role": "user", "content": [{"type": "tool_result", "tool_use_id": id_, "content": text}]}


def request(sent: Body, url: str = URL, **headers: str) -> Request:
    """A body as it is sent."""
    raw = json.dumps(sent, separators=(",", ":")).encode()
    read = read_request("POST", url, {name.replace("_", "-"): value for name, value in headers.items()}, raw)
    assert read is not None
    return read


def text(words: str) -> Answer:
    return Answer(200, {"type": "message", "content": [{"type": "text", "text": words}]}, BILLED)


def tool_use(id_: str, words: str = "") -> Answer:
    content = [{"type": "text", "text": words}] if words else []
    use = {"type": "tool_use", "id": id_, "name": "look_up", "input": {"order": id_}}
    return Answer(200, {"type": "message", "content": [*content, use]}, BILLED)


OVERLOADED = Answer(529, error="overloaded_error")


def recording(*exchanges: tuple[Body | Request, Answer]) -> Recording:
    """A recording of these exchanges."""
    return Recording(
        [Exchange(r if isinstance(r, Request) else request(r), answer) for r, answer in exchanges]
    )


def play(recording: Recording, bodies: Iterable[Body | Request]) -> list[int | None]:
    """The recorded exchange that each request got; None for a miss."""
    matches = [recording.choose(b if isinstance(b, Request) else request(b)) for b in bodies]
    return [match.index if match else None for match in matches]


def is_faithful(recording: Recording) -> bool:
    """Whether the run kept the shape of the recording."""
    return not (recording.misses or recording.unplayed or recording.reshaped)


@dataclass
class Agent:
    """One conversation of several turns: it asks, is answered, and goes on."""

    number: int
    turns: int
    answer: Callable[[int, int], Answer]
    """Of agent and turn, from 0."""
    change: Change = lambda sent, _: sent
    say: Callable[[int, int], str] = lambda number, turn: f"Step {turn} of errand {number}: go on with it."
    history: list[Message] = field(default_factory=list)
    asked: int = 0

    def opens(self) -> str:
        return (
            f"Please find out for customer {self.number} when order {self.number * 111 + 1000} leaves, "
            f"who delivers it, and whether the voucher V-{self.number} can still be used on it."
        )

    def ask(self) -> Body:
        """The next request."""
        turn, self.asked = self.asked, self.asked + 1
        if turn == 0:
            self.history.append(user(self.opens()))
        elif isinstance(uses := self.history[-1]["content"], list) and uses[-1]["type"] == "tool_use":
            self.history.append(result(uses[-1]["id"], f"Order {self.number}: fact {turn} of {self.number}."))
        else:
            self.history.append(user(self.say(self.number, turn)))
        return self.change(body(list(self.history)), self)

    def hear(self, answer: Answer) -> None:
        assert answer.message is not None
        self.history.append(said(answer.message["content"]))

    @property
    def done(self) -> bool:
        return self.asked == self.turns


def interleaved(agents: Sequence[Agent], chance: random.Random) -> Iterable[Agent]:
    """Whose turn it is, in a random interleaving."""
    left = [agent for agent in agents for _ in range(agent.turns)]
    chance.shuffle(left)
    yield from left


Places = dict[tuple[int, int], int]
"""Where the turns of agents are in a recording."""


def record_bodies(agents: Sequence[Agent], chance: random.Random) -> tuple[list[tuple[Body, Answer]], Places]:
    """Let agents talk in a random interleaving: what they sent and heard."""
    exchanges: list[tuple[Body, Answer]] = []
    places: Places = {}
    for agent in interleaved(agents, chance):
        turn = agent.asked
        asked, answer = agent.ask(), agent.answer(agent.number, turn)
        places[agent.number, turn] = len(exchanges)
        exchanges.append((asked, answer))
        agent.hear(answer)
    return exchanges, places


def record(agents: Sequence[Agent], chance: random.Random) -> tuple[Recording, Places]:
    """As `record_bodies`, as a recording."""
    exchanges, places = record_bodies(agents, chance)
    return recording(*exchanges), places


def replay(
    recorded: Recording, agents: Sequence[Agent], chance: random.Random
) -> dict[tuple[int, int], Match | None]:
    """Replay agents in another interleaving: what each agent's turns were paired with."""
    matches: dict[tuple[int, int], Match | None] = {}
    for agent in interleaved(agents, chance):
        turn = agent.asked
        match = matches[agent.number, turn] = recorded.choose(request(agent.ask()))
        if match is None:
            break
        agent.hear(recorded.exchanges[match.index].answer)
    return matches
