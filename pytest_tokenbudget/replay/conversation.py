"""See a request as a conversation: its messages as a hash chain, the answers that it holds, its words."""

from __future__ import annotations

import hashlib
import itertools
import math
import re
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from pytest_tokenbudget.wire.exchange import Answer, Request
from pytest_tokenbudget.wire.prompt import Block


@dataclass(frozen=True, slots=True)
class Reply:
    """The parts of an answer by which later requests show it, whatever a framework does to the rest of it."""

    ids: frozenset[str] = frozenset()
    """The ids of its tool uses."""
    text: str = ""
    """Its text without white space: frameworks strip, join and split text blocks."""

    @classmethod
    def of(cls, contents: Iterable[Mapping[str, Any]]) -> Reply:
        """Read an assistant's content blocks as a reply."""
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
        """The keys to find this reply by later: its tool uses and its text, in case only one is kept."""
        return [*sorted(self.ids), *([f"text:{self.text}"] if self.text else [])]

    @property
    def calls(self) -> list[str]:
        """The keys by which a turn names an earlier answer: its tool uses, which say more, or its text."""
        return sorted(self.ids) or self.names


def reply(answer: Answer) -> Reply | None:
    """Return the reply in an answer; None if the answer holds no message."""
    content = answer.message.get("content") if answer.message else None
    if not isinstance(content, list):
        return None
    return Reply.of(block for block in content if isinstance(block, Mapping))


class Conversation:
    """A request seen as a conversation: its head (tools and system) and a hash chain of its messages.

    Cache markers play no part, since a block's digest leaves them out. Words are computed when they are
    needed.
    """

    def __init__(self, request: Request, answers: Container[int] | None = None) -> None:
        self.request = request
        self.answers = answers
        """Indices of the recorded exchanges that may answer it; None if any may."""
        blocks = request.prompt.blocks
        messages = [block for block in blocks if block.level == "messages"]
        self._head = [block for block in blocks if block.level != "messages"]
        self._messages = [
            list(group) for _, group in itertools.groupby(messages, lambda block: block.message)
        ]
        self.head = _digest(self._head)
        self.messages = tuple(map(_digest, self._messages))
        """One digest for each message."""
        self.chain = tuple(itertools.accumulate(self.messages, _hash, initial=""))
        """`chain[n]` is the digest of the first n messages."""
        self.turns = tuple(
            (position, Reply.of(block.content for block in message))
            for position, message in enumerate(self._messages)
            if _is_assistants(message)
        )
        """The assistant's turns: (position among the messages, reply)."""
        self.asked = max(
            (n for n, message in enumerate(self._messages, 1) if not _is_assistants(message)), default=0
        )
        """How many of its messages come before the answer. Any later ones begin the answer (a prefill)."""

    @property
    def content(self) -> tuple[str, str]:
        """Digests of head and messages: what it says, without its model, options and cache markers."""
        return self.head, self.chain[-1]

    @property
    def offers_tools(self) -> bool:
        """Whether it lists any tool."""
        return self.request.prompt.offers_tools

    @cached_property
    def head_words(self) -> frozenset[str]:
        """Words of the tools and the system prompt."""
        return words(block.content for block in self._head)

    @cached_property
    def words(self) -> frozenset[str]:
        """Words of all messages."""
        return words(block.content for message in self._messages for block in message)

    @cached_property
    def last_words(self) -> frozenset[str]:
        """Words of the last user message; empty if there is none."""
        return words(block.content for block in self._said[-1]) if self._said else frozenset()

    @cached_property
    def last(self) -> str:
        """Digest of the last user message; empty if there is none."""
        return _digest(self._said[-1]) if self._said else ""

    def says_more_than(self, opening: Conversation) -> bool:
        """Return whether this request says what the opening says, and then goes on.

        It does if one of its earlier user messages is more like the opening's last user message than its own
        last one is. Examples in front of the question do not count: there the question comes last.
        """
        if len(self.messages) <= len(opening.messages):
            return False
        earlier = (words(block.content for block in message) for message in self._said[:-1])
        own = cosine(self.last_words, opening.last_words)
        return any(cosine(said, opening.last_words) > own for said in earlier)

    @property
    def repeats_itself(self) -> bool:
        """Whether its last user message, of four or more different words, was sent before in it."""
        return len(self.last_words) >= 4 and self.messages.count(self.last) > 1

    def tool_results(self, after: int) -> int:
        """Return how many tool results follow the message at position `after`."""
        return sum(
            block.kind == "tool_result" for message in self._messages[after + 1 :] for block in message
        )

    @cached_property
    def _said(self) -> list[list[Block]]:
        """The user's messages."""
        return [message for message in self._messages if message[0].role == "user"]


def _is_assistants(message: Sequence[Block]) -> bool:
    return message[0].role == "assistant"


def _digest(blocks: Iterable[Block]) -> str:
    return _hash(*(block.digest for block in blocks))


def _hash(*parts: str) -> str:
    return hashlib.blake2b("\n".join(parts).encode(), digest_size=16).hexdigest()


_CJK = "\u3040-\u9fff\uac00-\ud7af"
_WORD = re.compile(rf"[{_CJK}]|[^\W{_CJK}]+")
"""A word; in scripts that put no spaces between words, one character."""
_NOT_WORDS = frozenset({"data", "signature", "type", "id", "tool_use_id"})
_ALIKE = 0.5
_MOSTLY = 0.8


def words(contents: Iterable[Mapping[str, Any]]) -> frozenset[str]:
    """Return the words of all texts in content blocks and tool definitions, folded to one case."""
    return frozenset(word for text in _texts(contents) for word in _WORD.findall(text.casefold()))


def cosine(one: AbstractSet[str], other: AbstractSet[str]) -> float:
    """Return the cosine similarity of two sets, 0 to 1: shared words over the geometric mean of the sizes."""
    if not one or not other:
        return 0.0
    return len(one & other) / math.sqrt(len(one) * len(other))


def alike(one: AbstractSet[str], other: AbstractSet[str]) -> bool:
    """Return whether one text is a rewording of the other, or most of one was kept in the other.

    Unrelated English texts of a prompt's length share words up to a cosine of about 0.3.
    """
    return cosine(one, other) >= _ALIKE or holds(one, other) or holds(other, one)


def holds(text: AbstractSet[str], part: AbstractSet[str]) -> bool:
    """Return whether `text` has most (`_MOSTLY`) of the words of `part`. False if `part` is empty."""
    return bool(part) and len(text & part) >= _MOSTLY * len(part)


def is_rather(text: AbstractSet[str], one: AbstractSet[str], other: AbstractSet[str]) -> bool:
    """Return whether a text says `one` rather than `other`.

    It does if it has none of the words that only `other` has, and at least half of those that only `one` has.
    False if `other` has no words of its own.
    """
    only_other, only_one = other - one, one - other
    return bool(only_other) and not text & only_other and 2 * len(text & only_one) >= len(only_one)


def _texts(contents: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    """Yield every string but binary data, ids and names of types.

    It is a loop and no recursion, since bodies may be nested deeply.
    """
    stack: list[object] = list(contents)
    while stack:
        value = stack.pop()
        if isinstance(value, str):
            yield value
        elif isinstance(value, Mapping):
            stack.extend(item for key, item in value.items() if key not in _NOT_WORDS)
        elif isinstance(value, list):
            stack.extend(value)
