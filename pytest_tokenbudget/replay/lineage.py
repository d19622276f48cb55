"""Which answer a request continues: conversations as chains of messages, and the answers that they hold."""

from __future__ import annotations

import hashlib
import itertools
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from pytest_tokenbudget.replay.similarity import cosine, words
from pytest_tokenbudget.wire.exchange import Answer, Request
from pytest_tokenbudget.wire.prompt import Block

_LONG_REPLY = 40
"""Characters without spaces from which a reply is taken to be nobody else's; `OK` and labels are shorter."""


@dataclass(frozen=True, slots=True)
class Reply:
    """What makes an answer recognisable in a later request, whatever a framework does to the rest of it."""

    ids: frozenset[str] = frozenset()
    """Of its tool uses."""
    text: str = ""
    """Its text without white space: frameworks strip, join and split text blocks."""

    @classmethod
    def of(cls, contents: Iterable[Mapping[str, Any]]) -> Reply:
        """The reply that an assistant's content blocks are."""
        ids: set[str] = set()
        text: list[str] = []
        for content in contents:
            kind = content.get("type")
            if kind == "text":
                text.append("".join(str(content.get("text", "")).split()))
            elif isinstance(kind, str) and kind.endswith("tool_use") and content.get("id"):
                ids.add(str(content["id"]))
        return cls(frozenset(ids), "".join(text))

    @property
    def names(self) -> list[str]:
        """What it may be called by later: each of its tool uses, and its text, where only that is kept."""
        return [*sorted(self.ids), *([f"text:{self.text}"] if self.text else [])]

    @property
    def calls(self) -> list[str]:
        """What it calls an earlier answer by: tool uses, which say more than a text, or else its text."""
        return sorted(self.ids) or self.names


def reply(answer: Answer) -> Reply | None:
    """The reply in an answer; None where there is no message."""
    content = answer.message.get("content") if answer.message else None
    if not isinstance(content, list):
        return None
    return Reply.of(block for block in content if isinstance(block, Mapping))


class Conversation:
    """A request seen as a conversation: its head (tools and system) and a hash chain of its messages.

    Cache markers play no part, since a block's digest leaves them out. Words are taken when they are needed.
    """

    def __init__(self, request: Request) -> None:
        self.request = request
        blocks = request.prompt.blocks
        messages = [block for block in blocks if block.level == "messages"]
        self._head = [block for block in blocks if block.level != "messages"]
        self._messages = [
            list(group) for _, group in itertools.groupby(messages, lambda block: block.message)
        ]
        self.head = _hash(*(block.digest for block in self._head))
        self.messages = tuple(_hash(*(block.digest for block in message)) for message in self._messages)
        """One digest a message."""
        self.chain = tuple(itertools.accumulate(self.messages, _hash, initial=""))
        """`chain[n]` stands for the first n messages."""
        self.turns = tuple(
            (position, Reply.of(block.content for block in message))
            for position, message in enumerate(self._messages)
            if message[0].role == "assistant"
        )
        """The assistant's turns: their positions among the messages, and their replies."""

    @property
    def content(self) -> tuple[str, str]:
        """What the request says, whatever its model, options and cache markers are."""
        return self.head, self.chain[-1]

    @cached_property
    def head_words(self) -> frozenset[str]:
        """Words of tools and system."""
        return words(block.content for block in self._head)

    @cached_property
    def words(self) -> frozenset[str]:
        """Words of all messages."""
        return words(block.content for message in self._messages for block in message)

    @cached_property
    def last_words(self) -> frozenset[str]:
        """Words of the last message that the agent sent (not of a prefilled answer)."""
        return words(block.content for block in self._sent()[-1]) if self._sent() else frozenset()

    def says_more_than(self, opening: Conversation) -> bool:
        """Whether it says what an opening says, and then goes on: an earlier message is more like that one's
        last than its own last is. Examples in front are no such thing: they end with the question."""
        if len(self.messages) <= len(opening.messages):
            return False
        earlier = (words(block.content for block in message) for message in self._sent()[:-1])
        own = cosine(self.last_words, opening.last_words)
        return any(cosine(said, opening.last_words) > own for said in earlier)

    @property
    def repeats_itself(self) -> bool:
        """Whether its last message, of four words or more, was said before in the same conversation."""
        return len(self.last_words) >= 4 and self.messages[-1] in self.messages[:-1]

    def tool_results(self, after: int) -> int:
        """How many tool results follow the message at a position."""
        return sum(
            block.kind == "tool_result" for message in self._messages[after + 1 :] for block in message
        )

    def _sent(self) -> list[list[Block]]:
        """The messages that are not the assistant's."""
        return [message for message in self._messages if message[0].role != "assistant"]


@dataclass(frozen=True, slots=True)
class Origin:
    """What a request continues."""

    parents: frozenset[int] = frozenset()
    """Exchanges that may have given its last answer: one, or several that cannot be told apart. Empty: it
    opens a conversation."""
    position: int = -1
    """Of that answer among its messages."""
    sure: bool = True
    """False where only a short text says so (`OK`, a label): it may be an example of the prompt as well."""

    @property
    def may_open(self) -> bool:
        """Whether the request may open a conversation."""
        return not (self.parents and self.sure)

    def agrees(self, other: Origin) -> bool:
        """Whether both may continue the same answer, or may both open a conversation."""
        return not self.parents.isdisjoint(other.parents) or (self.may_open and other.may_open)


class Lineage:
    """The answers given so far on one side (recorded, or new), and which of them a request continues."""

    def __init__(self) -> None:
        self._conversations: dict[int, Conversation] = {}
        self._index: dict[tuple[str, ...], list[int]] = defaultdict(list)

    def add(self, number: int, conversation: Conversation, given: Reply | None) -> None:
        """Keep an answered request under its number."""
        self._conversations[number] = conversation
        if given is None:
            return
        chain, last = conversation.chain[-1], conversation.messages[-1:]
        self._index["chain", chain].append(number)
        for key in given.names:
            self._index["chain", chain, key].append(number)
            self._index["last", *last, key].append(number)
            self._index["reply", key].append(number)

    def origin(self, conversation: Conversation) -> Origin:
        """What a request continues: the last of its assistant turns that is an answer of this side.

        A turn that nobody gave (a prefilled answer, an example, an inserted one) is passed over.
        """
        weak = Origin()
        for position, turn in reversed(conversation.turns):
            for key, sure in self._evidence(conversation, position, turn):
                found = self._index.get(key, [])
                if sure:
                    found = self._not_examples(conversation, position, found)
                else:
                    found = [number for number in found if self._head(number) == conversation.head]
                if not found:
                    continue
                origin = Origin(frozenset(self._nearest(conversation, position, found)), position, sure)
                if sure:
                    return origin
                weak = weak if weak.parents else origin
        return weak

    @staticmethod
    def _evidence(
        conversation: Conversation, position: int, turn: Reply
    ) -> Iterator[tuple[tuple[str, ...], bool]]:
        """What may tell who gave the assistant turn at a position, surest first, and whether it is sure."""
        before = conversation.chain[position]
        last = conversation.messages[position - 1 : position]
        for key in turn.calls:
            yield ("chain", before, key), True  # the whole history and the answer
        for key in turn.calls:
            yield ("last", *last, key), True  # the answer, and the message that it answers: history trimmed
        for key in sorted(turn.ids):
            yield ("reply", key), True  # the tool use alone: history rewritten
        yield ("chain", before), True  # the history alone: answer rewritten
        if turn.text and not turn.ids:
            yield ("reply", *turn.calls), len(turn.text) >= _LONG_REPLY

    def _not_examples(self, conversation: Conversation, position: int, found: Iterable[int]) -> list[int]:
        """Without those whose own request holds the turn at the same place: there it is an example."""
        through = conversation.chain[position + 1]
        held = position + 1
        others = ((number, self._conversations[number].chain) for number in found)
        return [number for number, chain in others if len(chain) <= held or chain[held] != through]

    def _nearest(self, conversation: Conversation, position: int, found: list[int]) -> list[int]:
        """Of several that fit: the same agent, the same head, most of the same history."""
        for same in (self._session, self._head):
            found = [number for number in found if same(number) == same(conversation)] or found
        if len(found) == 1:
            return found
        history = conversation.messages[:position]
        shared = {number: _shared(history, self._conversations[number].messages) for number in found}
        longest = max(shared.values())
        return [number for number in found if shared[number] == longest]

    def _session(self, of: int | Conversation) -> str | None:
        return (of if isinstance(of, Conversation) else self._conversations[of]).request.session

    def _head(self, of: int | Conversation) -> str:
        return (of if isinstance(of, Conversation) else self._conversations[of]).head


def _shared(one: Sequence[str], other: Sequence[str]) -> int:
    """How many items two sequences share at their beginnings and at their ends."""
    beginnings = zip(one, other, strict=False)
    ends = zip(reversed(one), reversed(other), strict=False)
    return sum(
        sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))
        for pairs in (beginnings, ends)
    )


def _hash(*parts: str) -> str:
    return hashlib.blake2b("\n".join(parts).encode(), digest_size=16).hexdigest()
