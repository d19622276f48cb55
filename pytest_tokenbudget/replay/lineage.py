"""Which answer a request continues."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from pytest_tokenbudget.replay.conversation import Conversation, Reply
from pytest_tokenbudget.sequences import common_prefix

_LONG_REPLY = 40
"""Characters without spaces from which a reply is taken to be nobody else's; `OK` and labels are shorter."""


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
        chain = conversation.chain[conversation.asked]
        last = conversation.messages[max(conversation.asked - 1, 0) : conversation.asked]
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
    """Return how many items two sequences share at their beginnings, and how many at their ends, together."""
    return common_prefix(one, other) + common_prefix(one[::-1], other[::-1])
