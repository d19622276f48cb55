"""The recorded side of pairing: every exchange with its place in the conversations, ready to be looked up."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from functools import cached_property
from typing import TypeVar

from pytest_tokenbudget.model import Paired
from pytest_tokenbudget.replay.conversation import Conversation, reply
from pytest_tokenbudget.replay.lineage import Lineage, Origin
from pytest_tokenbudget.replay.similarity import alike, cosine
from pytest_tokenbudget.wire.exchange import Exchange, Request

_Key = TypeVar("_Key", str, int)
_FEW = 8
"""Candidates that are compared word for word; of more, those that share telling words."""
_TELLING = 64
"""Rarest words kept of one opening."""


@dataclass(frozen=True, slots=True)
class Match:
    """The recorded exchange that answers a request."""

    index: int
    """Among the recording's exchanges, from 0."""
    how: Paired
    origin: Origin
    """What the request continues."""


def is_free(request: Request) -> bool:
    """Whether a request bills nothing, so that it is no turn."""
    return request.endpoint.api == "count_tokens"


class Recorded:
    """The exchanges of a cassette, by number."""

    def __init__(self, exchanges: Sequence[Exchange]) -> None:
        self.by_digest: dict[str, list[int]] = defaultdict(list)
        self.by_custom_id: dict[str | None, list[int]] = defaultdict(list)
        self.origins: list[Origin] = []
        self._conversations = [Conversation(exchange.request) for exchange in exchanges]
        self._successors: dict[int, list[int]] = defaultdict(list)
        self._roots: dict[tuple[str, bool], list[int]] = defaultdict(list)
        self._by_last: dict[str, set[int]] = defaultdict(set)
        lineage = Lineage()
        for index, (exchange, conversation) in enumerate(zip(exchanges, self._conversations, strict=True)):
            request, origin = exchange.request, lineage.origin(conversation)
            self.by_digest[request.digest].append(index)
            if request.custom_id is not None:
                self.by_custom_id[request.custom_id].append(index)
            self.origins.append(origin)
            for parent in origin.parents:
                self._successors[parent].append(index)
            if origin.may_open:
                self._roots[_pool(request)].append(index)
            self._by_last[conversation.last].add(index)
            if exchange.answer.billed and not is_free(request):
                lineage.add(index, conversation, reply(exchange.answer))

    def __getitem__(self, index: int) -> Conversation:
        return self._conversations[index]

    def __len__(self) -> int:
        return len(self._conversations)

    def repeat(self, index: int) -> int:
        """Let an exchange count once more; the number of the copy."""
        self._conversations.append(self[index])
        self.origins.append(self.origins[index])
        copy = len(self._conversations) - 1
        self._by_last[self[index].last].add(copy)
        return copy

    def roots(self, request: Request) -> list[int]:
        """Exchanges of the same API as `request` that may open a conversation."""
        return self._roots.get(_pool(request), [])

    def successors(self, parents: Iterable[int]) -> list[int]:
        """Exchanges that continue one of `parents`, each once, in order."""
        return sorted({index for parent in parents for index in self._successors.get(parent, ())})

    def was_said_elsewhere(self, asked: Conversation, index: int) -> bool:
        """Whether the last message of a request was recorded word for word, but in other requests."""
        places = self._by_last.get(asked.last)
        return places is not None and index not in places

    def of_the_same_api(self, request: Request, found: Iterable[int]) -> list[int]:
        """Those of `found` that use the same API as `request`; a batch is one of its own."""
        return [index for index in found if _pool(self[index].request) == _pool(request)]

    def best(self, asked: Conversation, found: Sequence[int]) -> int:
        """Of several candidates the one that says most of what is asked.

        First the same messages, or the same last one; then the words by which the candidates differ, in tools
        and system and in what was added last; then the same model and streaming; then the recorded order.
        """
        found = [index for index in found if self[index].chain[-1] == asked.chain[-1]] or found
        found = [index for index in found if self[index].last == asked.last] or found
        if len(found) > _FEW:
            found = self._shortlist(asked, found)
        if len(found) == 1:
            return found[0]
        heads = _telling_apart({self[index].head: self[index].head_words for index in found})
        said = _telling_apart({index: self._said(index, self[index]) for index in found})

        def rank(index: int) -> tuple[float, bool, float, bool, bool, int]:
            recorded, says = self[index], self._said(index, asked)
            differing = cosine(asked.head_words, heads[recorded.head]) + cosine(says, said[index])
            whole = cosine(says, self._said(index, recorded))
            now, then = asked.request.prompt, recorded.request.prompt
            same = (asked.head == recorded.head, whole, now.model == then.model, now.stream == then.stream)
            return (differing, *same, -index)

        return max(found, key=rank)

    def is_told_by(self, words: AbstractSet[str], index: int) -> bool:
        """Whether there is a word among them that no other opening has."""
        return any(self._telling.get(word) == [index] for word in words & self[index].words)

    def _shortlist(self, asked: Conversation, found: Sequence[int]) -> Sequence[int]:
        """Of many openings the few that share the most words by which they differ, and a few without such."""
        if not all(self.origins[index].may_open for index in found):
            return found
        told = Counter(
            index for word in asked.words | asked.head_words for index in self._telling.get(word, ())
        )
        known = set(found)
        best = [index for index, _ in told.most_common() if index in known]
        return best[:_FEW] + [index for index in found if index not in self._told][:_FEW] or found[:_FEW]

    @cached_property
    def _telling(self) -> dict[str, list[int]]:
        """By word, the openings that differ by it: of each its rarest, where less than half have them."""
        roots = [index for roots in self._roots.values() for index in roots]
        texts = [self[index].words | self[index].head_words for index in roots]
        count = Counter(word for text in texts for word in text)
        telling: dict[str, list[int]] = defaultdict(list)
        for index, text in zip(roots, texts, strict=True):
            rare = sorted((count[word], word) for word in text if 2 * count[word] <= len(roots))
            for _, word in rare[:_TELLING]:
                telling[word].append(index)
        return telling

    @cached_property
    def _told(self) -> frozenset[int]:
        """The openings that differ by words."""
        return frozenset(index for indices in self._telling.values() for index in indices)

    def _said(self, index: int, conversation: Conversation) -> frozenset[str]:
        """What is compared with a recorded request: all that opens a conversation, or what was added last."""
        return conversation.words if self.origins[index].may_open else conversation.last_words

    def is_alike(self, asked: Conversation, index: int) -> bool:
        """Whether a request that opens a conversation says what a recorded one says, in any of its parts."""
        recorded = self[index]
        if asked.chain[-1] == recorded.chain[-1] or (asked.head_words and asked.head == recorded.head):
            return True
        return (
            alike(asked.head_words, recorded.head_words)
            or alike(asked.words, recorded.words)
            or alike(asked.last_words, recorded.last_words)
        )

    def shared(self, asked: Conversation, index: int) -> float:
        """Cosine similarity of the part that is most alike."""
        recorded = self[index]
        return max(cosine(asked.head_words, recorded.head_words), cosine(asked.words, recorded.words))


def _telling_apart(texts: Mapping[_Key, frozenset[str]]) -> dict[_Key, frozenset[str]]:
    """Texts as words, without the words that all of them share."""
    common = frozenset.intersection(*texts.values())
    return {key: text - common for key, text in texts.items()}


def _pool(request: Request) -> tuple[str, bool]:
    """Which requests can be answered by which: those of one API, and a batch's entries among themselves."""
    return request.endpoint.api, request.custom_id is not None
