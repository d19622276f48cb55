"""What the neighbours of a block decide: the framing around it, and how it is shown."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

from pytest_tokenbudget.metering.models import model_row
from pytest_tokenbudget.wire.prompt import THINKING, Block, Prompt, is_deferred


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a block's neighbours decide about its rendering."""

    tool: str | None = None
    """Of a `tool_result` among several in one message: the name of the tool that it answers."""
    dropped: bool = False
    """Whether the API leaves it out: earlier thinking, or a deferred tool that nothing has found."""


ALONE = Surroundings()
_DROPPED = Surroundings(dropped=True)


@dataclass(frozen=True, slots=True)
class Place:
    """Where a block stands in its prompt."""

    framing: int
    """Tokens around it."""
    surroundings: Surroundings = ALONE


def envelope(prompt: Prompt) -> int:
    """Tokens around the whole prompt."""
    if not prompt.blocks:
        return 0
    row = model_row(prompt.model)
    return row.framing.prompt + (row.system if prompt.level("system") else 0)


@dataclass(frozen=True, slots=True)
class Head:
    """Tools and system: what every turn of a conversation begins with."""

    blocks: tuple[Block, ...]
    model: str
    hides_deferred: bool
    """Whether deferred tools are out of the prompt, since nothing in it may bring them in."""

    @classmethod
    def of(cls, prompt: Prompt) -> Head:
        """The blocks before the messages."""
        end = next((n for n, block in enumerate(prompt.blocks) if block.level == "messages"), None)
        blocks = prompt.blocks[:end]
        hides = any(map(is_deferred, blocks)) and not any(map(_finds_tools, prompt.blocks))
        return cls(blocks, prompt.model, hides)

    def places(self) -> tuple[Place, ...]:
        """One place a block, in order."""
        return tuple(map(self._place, self.blocks))

    def _place(self, block: Block) -> Place:
        if block.level != "tools":
            return Place(0)
        return Place(0, _DROPPED) if self.hides_deferred and is_deferred(block) else Place(1)


def places(prompt: Prompt) -> tuple[Place, ...]:
    """One place a block, in order; the framing of a message is with its first block."""
    head = Head.of(prompt)
    return *head.places(), *message_places(prompt.blocks[len(head.blocks) :], prompt.model)


def message_places(blocks: tuple[Block, ...], model: str) -> tuple[Place, ...]:
    """Of the messages alone."""
    return tuple(_Placing(blocks, model).walk())


class _Placing:
    def __init__(self, blocks: tuple[Block, ...], model: str) -> None:
        self._blocks = blocks
        row = model_row(model)
        self._around = row.framing
        self._tools = {
            str(block.content.get("id")): str(block.content.get("name"))
            for block in blocks
            if block.kind == "tool_use"
        }
        self._keeps_from = keeps_thinking_from(blocks, model)

    def walk(self) -> Iterator[Place]:
        for _, blocks in groupby(self._blocks, lambda block: block.role):
            yield from self._turn(list(blocks))

    def _turn(self, blocks: list[Block]) -> Iterator[Place]:
        """The messages of one role in a row, which the API merges."""
        around = self._around
        calls, results = (sum(block.kind == kind for block in blocks) for kind in ("tool_use", "tool_result"))
        frame = self._frame(blocks, calls, results)
        last: Block | None = None
        for block in blocks:
            before = None if last is None else last.kind
            if block.kind == "tool_use" == before:
                frame += around.tool_call
            elif block.kind == "tool_result" == before:
                frame += 1
            elif before == "tool_result":
                frame += around.after_results
            elif last is not None and block.message != last.message:
                frame += around.merged
            name = self._tools.get(str(block.content.get("tool_use_id")), "") if results > 1 else None
            surroundings = ALONE
            if is_dropped_thinking(block, self._keeps_from):
                surroundings = _DROPPED
            elif block.kind == "tool_result" and name is not None:
                surroundings = Surroundings(tool=name)
            yield Place(frame, surroundings)
            frame, last = 0, block

    def _frame(self, blocks: list[Block], calls: int, results: int) -> int:
        around = self._around
        opening = around.opening if blocks[0].message == 0 and blocks[0].role == "assistant" else 0
        if calls:
            return opening + around.tool_call + around.calls
        if results:
            return around.tool_results + (around.several_results if results > 1 else 0)
        prefill = blocks[0].role == "assistant" and blocks[-1] is self._blocks[-1]
        return opening + (0 if prefill else around.message)


def _finds_tools(block: Block) -> bool:
    """Whether it may bring deferred tools into the prompt."""
    if block.level == "tools":
        return str(block.content.get("type", "")).startswith("tool_search")
    inner = block.content.get("content")
    parts = inner if isinstance(inner, list) else [block.content]
    return any(isinstance(part, Mapping) and "tool_reference" in str(part.get("type")) for part in parts)


def keeps_thinking_from(blocks: Sequence[Block], model: str) -> int:
    """Return the index of the first message whose thinking stays in the prompt; 0 where all of it does.

    On models that drop it, the thinking of a turn goes once the user has said something that is no tool
    result; within a loop of tools it stays ("Thinking" of the platform's documentation).
    """
    if model_row(model).keeps_thinking:
        return 0
    said = (b.message or 0 for b in reversed(blocks) if b.role == "user" and b.kind != "tool_result")
    return next(said, 0)


def is_dropped_thinking(block: Block, keeps_from: int) -> bool:
    """Return whether the API leaves a block out as thinking of before the message `keeps_from`."""
    return block.kind in THINKING and block.message is not None and block.message < keeps_from
