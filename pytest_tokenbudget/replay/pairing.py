"""Find the recorded exchange that answers a request which the agent sends now, and how sure that is.

The reasons to pair two requests are tried in this order: the same bytes; the same JSON, whatever the order
of its keys; the conversation that the request continues; what it says; the order of the recording.

A request whose place in the conversations is known never falls through to a weaker reason: an agent that
asks the same thing again, or asks more than was recorded, gets no answer (a miss). A pair whose two requests
have different places in their conversations is `reshaped`. Both make a scenario stale. That is the point:
if requests were simply answered in the recorded order, an agent that loops would seem to get cheaper.
"""

from __future__ import annotations

import threading
from collections import Counter, defaultdict
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from functools import cached_property
from typing import TypeVar, cast

from pytest_tokenbudget.model import Paired
from pytest_tokenbudget.replay.conversation import Conversation, Reply, alike, cosine, holds, is_rather, reply
from pytest_tokenbudget.sequences import common_prefix
from pytest_tokenbudget.wire.exchange import UNIQUE_TEXT, Accepted, Exchange, Pair, Request
from pytest_tokenbudget.wire.requests import meaning

_Made = TypeVar("_Made")


class Recording:
    """Hold the exchanges of one cassette, and pair the requests of this run with them. Thread-safe.

    An exchange answers one request only, except token counts, which are free and may be asked for again. With
    `repeats`, an exchange that is asked for again counts as if it had been recorded once more, and a request
    that nothing else answers is given the first exchange that may answer it, as with vcr's
    `allow_playback_repeats`.

    `accepted` returns what was accepted in place of recorded exchanges, by the index of the exchange. It is
    called at most once, when it is first needed: when a request comes that no exchange matches byte for byte.
    A request that equals an accepted one pairs as exact.
    """

    def __init__(
        self,
        exchanges: Sequence[Exchange] = (),
        *,
        repeats: bool = False,
        accepted: Callable[[], Mapping[int, Accepted]] = dict,
    ) -> None:
        self.exchanges = list(exchanges)
        self._read_accepted = accepted
        self._repeats = repeats
        self._recorded = Recorded(self.exchanges)
        self._count = len(self.exchanges)
        self._lock = threading.Lock()
        self._new = Lineage()  # the requests of this run, each under the index of its exchange
        self._served: dict[int, Conversation] = {}
        self._parents: dict[int, frozenset[int]] = {}  # of the request that each exchange answered last
        self._borrowed: set[int] = set()  # exchanges that answered what follows an answer that was taken back
        self._last: dict[str, int] = {}  # request digest -> index of the exchange that answered it last
        self._said: dict[
            tuple[str, str], tuple[int, frozenset[int]]
        ] = {}  # content -> (index of the exchange that answered it last, parents of that request)
        self._pairs: list[Pair] = []
        self._token_counts: list[Pair] = []
        self._misses: list[Request] = []
        self._reshaped: list[Pair] = []
        self._made: dict[tuple[object, int], object] = {}

    def made_once(self, make: Callable[[Sequence[Exchange]], _Made]) -> _Made:
        """Return what `make` makes of the exchanges, made once for as many of them.

        Many tests may share a recording: to read it whole for each of them would take longer than all else.
        """
        key = make, len(self.exchanges)  # a repeated answer is one exchange more
        if key not in self._made:
            self._made[key] = make(self.exchanges)
        return cast(_Made, self._made[key])

    @cached_property
    def accepted(self) -> Mapping[int, Accepted]:
        """What was accepted in place of recorded turns, by the index of the exchange."""
        return self._read_accepted()

    @cached_property
    def _accepted_by_digest(self) -> Mapping[str, Sequence[int]]:
        found: dict[str, list[int]] = defaultdict(list)
        for index, accepted in self.accepted.items():
            if accepted.request is not None:
                found[accepted.request.digest].append(index)
        return found

    def is_recorded(self, request: Request) -> bool:
        """Return whether a request with the same bytes was recorded."""
        return request.digest in self._recorded.by_digest

    @property
    def pairs(self) -> tuple[Pair, ...]:
        """Every answered request of this run, failed attempts included, in the order of arrival."""
        return tuple(self._pairs)

    @property
    def token_counts(self) -> tuple[Pair, ...]:
        """The answered `count_tokens` requests. If a pair is not exact, the number in its answer is old."""
        return tuple(self._token_counts)

    @property
    def misses(self) -> tuple[Request, ...]:
        """Requests that the recording cannot answer."""
        return tuple(self._misses)

    @property
    def reshaped(self) -> tuple[Pair, ...]:
        """Pairs whose request has another place in the conversations than the recorded request."""
        return tuple(self._reshaped)

    @property
    def unplayed(self) -> tuple[Exchange, ...]:
        """Recorded turns that nobody asked for. Failed attempts and token counts are no turns."""
        return tuple(
            exchange
            for index, exchange in enumerate(self.exchanges)
            if index not in self._served and exchange.answer.billed and not is_free(exchange.request)
        )

    def choose(
        self, request: Request, *, required: bool = True, among: Container[int] | None = None
    ) -> Match | None:
        """Pair a request with the exchange that answers it, which then answers no other request.

        `among` has the indices of the exchanges that may answer (None: all may). Return None if none of them
        does; if an answer is `required`, also record a miss.
        """
        conversation = Conversation(request, among)
        with self._lock:
            origin = self._new.origin(conversation)
            match = (
                self._find(conversation, origin)
                or self._surely_following(conversation, origin)
                or self._of_its_kind(conversation, origin)
                or self._repeated(conversation, origin)
            )
            if match is None:
                if required:
                    self._misses.append(request)
            else:
                self._keep(conversation, match)
            return match

    def miss(self, request: Request) -> None:
        """Record a request that nothing answers and that no answer was to be chosen for."""
        with self._lock:
            self._misses.append(request)

    def choose_exact(self, request: Request, *, but: Container[int] = ()) -> Match | None:
        """Pair a request as `choose` does, but only with certainty; else return None and change nothing.

        Certain means: recorded byte for byte, at the same place, with an answer that says what it billed, and
        none of the exchanges `but`.
        """
        conversation = Conversation(request)
        with self._lock:
            match = self._same_bytes(conversation, self._new.origin(conversation))
            if match is None or match.index in but or self.exchanges[match.index].answer.is_unknown:
                return None
            if is_reshaped(conversation, match, self._recorded, self._served):
                return None
            self._keep(conversation, match)
            return match

    def _keep(self, conversation: Conversation, match: Match) -> None:
        """Record a pair: as a token count if it is free, else as a turn of this run."""
        exchange = self.exchanges[match.index]
        pair = Pair(
            match.index,
            conversation.request,
            exchange.request,
            exchange.answer,
            match.how,
            match.by_acceptance,
        )
        if is_free(conversation.request):
            self._served[match.index] = conversation
            self._token_counts.append(pair)
            return
        repeated = match.index >= self._count  # a copy of an exchange has no place of its own
        if not repeated and is_reshaped(conversation, match, self._recorded, self._served):
            self._reshaped.append(pair)
        self._pairs.append(pair)
        self._served[match.index] = conversation
        self._parents[match.index] = match.origin.parents
        self._last[conversation.request.digest] = match.index
        self._said[conversation.content] = match.index, match.origin.parents
        self._new.add(match.index, conversation, reply(exchange.answer))

    def _find(self, asked: Conversation, origin: Origin) -> Match | None:
        """Return the first match in the order of reasons that the module names, or None."""
        match = (
            self._same_custom_id(asked, origin)
            or self._same_bytes(asked, origin)
            or self._as_accepted(asked, origin)
            or self._same_meaning(asked, origin)
            or self._equal_after_all(asked, origin)
        )
        if match:
            return match
        last = self._last.get(asked.request.digest)
        if last is not None and not self.exchanges[last].answer.billed:
            return self._retry(asked, origin, last)
        if origin.may_open:
            return self._same_opening(asked) or self._opening(asked, origin)
        found = self._not_yet(asked, origin, self._recorded.successors(origin.parents))
        return Match(self._recorded.best(asked, found), Paired.LINEAGE, origin) if found else None

    def _same_custom_id(self, asked: Conversation, origin: Origin) -> Match | None:
        """Match an entry of a batch to the recorded entry that has the same `custom_id`.

        Of several, prefer one with the same bytes, then what was accepted, then one with the same JSON.
        """
        found = self._unplayed(asked, self._recorded.by_custom_id.get(asked.request.custom_id, ()))
        if not found:
            return None
        same = [i for i in found if self.exchanges[i].request.digest == asked.request.digest]
        if not same and (accepted := self._as_accepted(asked, origin)) and accepted.index in found:
            return accepted
        if not same:
            asks = meaning(asked.request)
            same = [i for i in found if meaning(self.exchanges[i].request) == asks]
        return Match((same or found)[0], Paired.EXACT if same else Paired.LINEAGE, origin)

    def _same_bytes(self, asked: Conversation, origin: Origin) -> Match | None:
        """Match the first recorded request with the same bytes; of several, the first at the same place."""
        return self._equal(asked, origin, self._recorded.by_digest.get(asked.request.digest, ()))

    def _same_meaning(self, asked: Conversation, origin: Origin) -> Match | None:
        """Match the first recorded request with the same JSON, whatever the order of its keys.

        Of several, match the first at the same place in the conversations.
        """
        return self._equal(asked, origin, self._recorded.by_meaning.get(meaning(asked.request), ()))

    def _equal(
        self, asked: Conversation, origin: Origin, equals: Iterable[int], *, by_acceptance: bool = False
    ) -> Match | None:
        """Match the first unplayed exchange of `equals`, if possible one at the same place, as exact."""
        found = self._unplayed(asked, equals)
        if not found:
            return None
        placed = [index for index in found if origin.agrees(self._recorded.origins[index])]
        return Match((placed or found)[0], Paired.EXACT, origin, by_acceptance)

    def _as_accepted(self, asked: Conversation, origin: Origin) -> Match | None:
        """Match the first exchange in whose place exactly this request was accepted."""
        equals = self._accepted_by_digest.get(asked.request.digest, ())
        return self._equal(asked, origin, equals, by_acceptance=True)

    def _retry(self, asked: Conversation, origin: Origin, failed: int) -> Match | None:
        """Match the next recorded attempt after `failed`, the exchange that answered this with an error."""
        digest = self.exchanges[failed].request.digest
        found = self._unplayed(asked, self._recorded.by_digest[digest])
        how = next(pair.how for pair in reversed(self._pairs) if pair.index == failed)
        return Match(found[0], how, origin) if found else None

    def _equal_after_all(self, asked: Conversation, origin: Origin) -> Match | None:
        """Pair a request with the equal recorded one, whose answer an added call (a planner) got."""
        equals = [*self._recorded.by_digest.get(asked.request.digest, ())]
        equals += self._accepted_by_digest.get(asked.request.digest, ())
        added = self._taken_back(asked, equals)
        if added is None:
            return None
        accepted = asked.request.digest != added.pair.recorded.digest
        return Match(added.pair.index, Paired.EXACT, origin, accepted, added)

    def _surely_following(self, asked: Conversation, origin: Origin) -> Match | None:
        """Pair a request with what follows its answer for sure, and another has, that merely says the same: a
        reflection on a result."""
        following = () if origin.may_open else self._recorded.successors(origin.parents)
        added = self._taken_back(asked, following)
        return None if added is None else Match(added.pair.index, Paired.LINEAGE, origin, displaced=added)

    def _same_opening(self, asked: Conversation) -> Match | None:
        """Pair an opening with the recorded one of the same messages, whose answer another opening got.

        That was an added call, such as one subagent more, which was asked before it.
        """
        same = [index for index in self._recorded.roots(asked.request) if self._opens_alike(asked, index)]
        if any(index not in self._served for index in same):
            return None
        return self._as_displacing(asked, (i for i in same if not self._opens_alike(self._served[i], i)))

    def _opens_alike(self, asked: Conversation, index: int) -> bool:
        """Return whether a request has the messages of the recorded one at `index`."""
        return asked.chain[-1] == self._recorded[index].chain[-1]

    def _of_its_kind(self, asked: Conversation, origin: Origin) -> Match | None:
        """Pair an opening with the recorded one whose answer a call of another kind got: a triage before it.

        Of another kind is what asks another model and, unlike the recorded one, offers tools or offers none;
        or what has other tools or another system prompt, where the opening has the recorded ones.
        """
        if not origin.may_open:
            return None
        recorded = self._recorded
        taken = (
            index
            for index in recorded.roots(asked.request)
            if index in self._served
            and _is_rather_its_kind(asked, self._served[index], recorded[index])
            and recorded.is_alike(asked, index)
        )
        return self._as_displacing(asked, taken)

    def _as_displacing(self, asked: Conversation, found: Iterable[int]) -> Match | None:
        """Match an opening to one of the exchanges `found` that can be taken back."""
        added = self._taken_back(asked, found)
        return None if added is None else Match(added.pair.index, Paired.SIMILAR, Origin(), displaced=added)

    def _taken_back(self, asked: Conversation, found: Iterable[int]) -> Displaced | None:
        """Take one of the exchanges from the request that only seemed to belong to it, which is a miss now.

        It has been played out, so that it is none of those that `asked` may be answered with. What continued
        that answer only seemed to belong to the recording as well.
        """
        if is_free(asked.request):
            return None
        belong = set(self._recorded.of_the_same_api(asked.request, found))
        seems = (
            pair
            for pair in self._pairs
            if pair.how in (Paired.SIMILAR, Paired.ORDER) or pair.index in self._borrowed
        )
        pair = next((pair for pair in seems if pair.index in belong), None)
        if pair is None:
            return None
        self._pairs = [other for other in self._pairs if other is not pair]
        self._reshaped = [other for other in self._reshaped if other is not pair]
        self._misses.append(pair.request)
        self._borrowed |= {
            other.index for other in self._pairs if pair.index in self._parents.get(other.index, ())
        }
        return Displaced(pair, follows=pair.index in self._borrowed)

    def _repeated(self, asked: Conversation, origin: Origin) -> Match | None:
        """Repeat the exchange that answered the same request before, or else the first that may answer it.

        Return None if repeats are not allowed, or nothing may answer.
        """
        if not self._repeats:
            return None
        last = self._last.get(asked.request.digest)
        found = self._may_answer(asked, range(self._count) if last is None else [last])
        if not found:
            return None
        self.exchanges.append(self.exchanges[found[0]])
        how = next((pair.how for pair in reversed(self._pairs) if pair.index == last), Paired.ORDER)
        return Match(self._recorded.repeat(found[0]), how, origin)

    def _opening(self, asked: Conversation, origin: Origin) -> Match | None:
        """Match a request that opens a conversation, or that continues one without certain evidence."""
        recorded = self._recorded
        roots = self._not_yet(asked, origin, recorded.roots(asked.request))
        following = self._not_yet(asked, origin, self._following(asked, origin))
        root = recorded.best(asked, roots) if roots else None
        if not following or (root is not None and self._rather_opens(asked, root, following)):
            return None if root is None else self._root(asked, root)
        index = recorded.best(asked, following)
        if origin.parents:
            return Match(index, Paired.LINEAGE, origin)
        return Match(index, Paired.SIMILAR, Origin(recorded.origins[index].parents & self._served.keys()))

    def _following(self, asked: Conversation, origin: Origin) -> Iterable[int]:
        """Return the recorded requests that continue an answer of this run and that `asked` may stand for.

        Evidence is a short answer that `asked` repeats, or a request that holds nothing of its conversation
        but the last message (its history was cut to one message, or replaced by a summary).
        """
        if origin.parents:
            found = self._recorded.successors(origin.parents)
            return [index for index in found if not self._recorded.origins[index].may_open]
        if any(turn.ids for _, turn in asked.turns):  # it has a history, but not one of this run
            return []
        return [i for i in self._recorded.successors(self._served) if self._says_the_same(asked, i)]

    def _says_the_same(self, asked: Conversation, index: int) -> bool:
        """Return whether a request says what the recorded request at `index` added to its conversation."""
        if index in self._served or self._recorded.origins[index].may_open:
            return False
        recorded = self._recorded[index]
        if asked.offers_tools != recorded.offers_tools:  # rather a call about it, such as a reflection
            return False
        if asked.last == recorded.last:
            return True
        parents = self._recorded.origins[index].parents & self._served.keys()
        known = frozenset[str]().union(*(self._served[parent].words for parent in parents))
        return holds(asked.last_words, recorded.last_words - known)

    def _rather_opens(self, asked: Conversation, root: int, following: Sequence[int]) -> bool:
        """Return whether a request is more like the opening `root` than like the best of `following`."""
        opening, best = self._recorded[root], self._recorded[self._recorded.best(asked, following)]
        if asked.chain[-1] == opening.chain[-1]:
            return True
        as_root = cosine(asked.words, opening.words)
        return alike(asked.words, opening.words) and as_root > cosine(asked.last_words, best.last_words)

    def _root(self, asked: Conversation, index: int) -> Match | None:
        """Match the recorded opening at `index`: as similar, or else by order.

        Return None if the request is not similar to it, but to an opening that was answered already: then it
        is one more request of that kind, and no other opening rewritten.
        """
        if self._recorded.is_alike(asked, index):
            return Match(index, Paired.SIMILAR, Origin())
        opened = (root for root in self._recorded.roots(asked.request) if root in self._served)
        if any(self._recorded.is_alike(asked, root) for root in opened):
            return None
        return Match(index, Paired.ORDER, Origin())

    def _unplayed(self, asked: Conversation, found: Iterable[int]) -> list[int]:
        """Return the exchanges in `found` that may answer and have answered nothing yet.

        If all of them have answered and `asked` is a token count, return all: a token count may be asked for
        again.
        """
        found = self._may_answer(asked, found)
        unplayed = [index for index in found if index not in self._served]
        return found if is_free(asked.request) and not unplayed else unplayed

    def _may_answer(self, asked: Conversation, found: Iterable[int]) -> list[int]:
        """Return the exchanges in `found` of the same API that `asked.answers` permits."""
        found = self._recorded.of_the_same_api(asked.request, found)
        return [index for index in found if asked.answers is None or index in asked.answers]

    def _not_yet(self, asked: Conversation, origin: Origin, found: Iterable[int]) -> list[int]:
        """Return the unplayed exchanges in `found`, without those that would answer a repeated question.

        If this run has asked the same content before, at the same place in its conversation, only exchanges
        whose recorded messages are the same as well remain: an agent that asks again must not use up other
        turns.
        """
        unplayed = self._unplayed(asked, found)
        last, parents = self._said.get(asked.content, (None, frozenset()))
        if last is None or is_free(asked.request) or not self.exchanges[last].answer.billed:
            return unplayed
        if origin.sure and origin.parents - parents:  # another place: short windows can have equal content
            return unplayed
        said = self._recorded[last].chain[-1]
        return [index for index in unplayed if self._recorded[index].chain[-1] == said]


_Key = TypeVar("_Key", str, int)
_FEW = 8
"""How many candidates are compared word for word at most; `Recorded._shortlist` chooses them."""
_TELLING = 64
"""How many of an opening's rarest words are kept to find it by."""


def _kind(asked: Conversation) -> tuple[str, bool]:
    return asked.request.prompt.model, asked.offers_tools


def _is_rather_its_kind(asked: Conversation, served: Conversation, recorded: Conversation) -> bool:
    """Return whether `asked` is the kind of call that was recorded, and `served` is of another kind."""
    if _kind(asked) != _kind(recorded):
        return False
    if asked.head == recorded.head != served.head:
        return True
    return all(a != b for a, b in zip(_kind(served), _kind(recorded), strict=True))


@dataclass(frozen=True, slots=True)
class Displaced:
    """A pair that the recording's own request has put an end to."""

    pair: Pair
    follows: bool
    """Whether its request continued an answer that was taken back as well, so that a real answer before it
    may have ended the conversation."""


@dataclass(frozen=True, slots=True)
class Match:
    """The recorded exchange that answers a request, and why it does."""

    index: int
    """Index of the exchange in the recording, from 0."""
    how: Paired
    origin: Origin
    """The answer that the request continues."""
    by_acceptance: bool = False
    """Whether the match is exact because the request equals an accepted one, not the recorded one."""
    displaced: Displaced | None = None
    """The pair that had this answer before; its request turned out to be an added call, and is a miss."""


def is_free(request: Request) -> bool:
    """Return whether a request bills nothing (a token count), so that it is no turn."""
    return request.endpoint.api == "count_tokens"


class Recorded:
    """The exchanges of a cassette, indexed by everything that a request may be matched by."""

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
            lineage.add(index, conversation, reply(exchange.answer))

    def __getitem__(self, index: int) -> Conversation:
        return self._conversations[index]

    @cached_property
    def by_meaning(self) -> Mapping[str, Sequence[int]]:
        """Indices of exchanges by the JSON meaning of their requests; needed only where bytes differ."""
        found: dict[str, list[int]] = defaultdict(list)
        for index, conversation in enumerate(self._conversations):
            found[meaning(conversation.request)].append(index)
        return found

    def __len__(self) -> int:
        return len(self._conversations)

    def repeat(self, index: int) -> int:
        """Append a copy of the exchange at `index` and return the index of the copy."""
        self._conversations.append(self[index])
        self.origins.append(self.origins[index])
        copy = len(self._conversations) - 1
        self._by_last[self[index].last].add(copy)
        return copy

    def roots(self, request: Request) -> list[int]:
        """Return the exchanges of the same API as `request` that may open a conversation."""
        return self._roots.get(_pool(request), [])

    def successors(self, parents: Iterable[int]) -> list[int]:
        """Return the exchanges that continue one of `parents`, each once, in recorded order."""
        return sorted({index for parent in parents for index in self._successors.get(parent, ())})

    def was_said_elsewhere(self, asked: Conversation, index: int) -> bool:
        """Return whether a request's last user message was recorded word for word, but not at `index`."""
        places = self._by_last.get(asked.last)
        return places is not None and index not in places

    def of_the_same_api(self, request: Request, found: Iterable[int]) -> list[int]:
        """Return those of `found` of the same API as `request`; batch entries go with batch entries only."""
        return [index for index in found if _pool(self[index].request) == _pool(request)]

    def best(self, asked: Conversation, found: Sequence[int]) -> int:
        """Choose, of the candidates `found`, the one that is most like the request.

        The criteria, in this order: the same messages; the same last user message; similarity in the words by
        which the candidates differ (in tools and system, and in what each says); the same tools and system;
        similarity in all words; the same model; the same streaming; the earliest in the recording.
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
        """Return whether `words` has a telling word of the opening at `index` that no other opening has."""
        return any(self._telling.get(word) == [index] for word in words & self[index].words)

    def _shortlist(self, asked: Conversation, found: Sequence[int]) -> Sequence[int]:
        """Cut many openings to the few that are worth comparing word for word.

        Keep the `_FEW` openings that share the most telling words with the request, and `_FEW` of those that
        have no telling words. Candidates that are not all openings are returned unchanged.
        """
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
        """The openings (indices) that each telling word stands for.

        Telling words of an opening are its `_TELLING` rarest words, if at most half of the openings have
        them.
        """
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
        """The indices of the openings that have at least one telling word."""
        return frozenset(index for indices in self._telling.values() for index in indices)

    def _said(self, index: int, conversation: Conversation) -> frozenset[str]:
        """Return the words of `conversation` that are compared with the recorded request at `index`.

        These are all words of the messages if the recorded request may open a conversation, else only the
        words of the last user message.
        """
        return conversation.words if self.origins[index].may_open else conversation.last_words

    def is_alike(self, asked: Conversation, index: int) -> bool:
        """Return whether a request that opens a conversation is like the opening at `index` in any part."""
        recorded = self[index]
        if asked.chain[-1] == recorded.chain[-1] or (asked.head_words and asked.head == recorded.head):
            return True
        return (
            alike(asked.head_words, recorded.head_words)
            or alike(asked.words, recorded.words)
            or alike(asked.last_words, recorded.last_words)
        )

    def shared(self, asked: Conversation, index: int) -> float:
        """Return the similarity (cosine, 0 to 1) to the recorded request at `index` of the part most alike.

        The parts are tools with system, and the messages.
        """
        recorded = self[index]
        return max(cosine(asked.head_words, recorded.head_words), cosine(asked.words, recorded.words))


def _telling_apart(texts: Mapping[_Key, frozenset[str]]) -> dict[_Key, frozenset[str]]:
    """Return the texts (as sets of words) without the words that all of them share."""
    common = frozenset.intersection(*texts.values())
    return {key: text - common for key, text in texts.items()}


def _pool(request: Request) -> tuple[str, bool]:
    """Return a key of the requests that may answer each other: one API, and batch entries on their own."""
    return request.endpoint.api, request.custom_id is not None


@dataclass(frozen=True, slots=True)
class Origin:
    """Which earlier answer a request continues."""

    parents: frozenset[int] = frozenset()
    """Indices of the exchanges that may have given its last answer: one, or several that cannot be told
    apart. Empty if the request opens a conversation."""
    position: int = -1
    """Position of that answer among the request's messages; -1 without parents."""
    sure: bool = True
    """False if the only evidence is a short text (`OK`, a label), which may be an example in the prompt."""

    @property
    def may_open(self) -> bool:
        """Whether the request may open a conversation."""
        return not (self.parents and self.sure)

    def agrees(self, other: Origin) -> bool:
        """Return whether both may continue the same answer, or both may open a conversation."""
        return not self.parents.isdisjoint(other.parents) or (self.may_open and other.may_open)


class Lineage:
    """Keep the answers of one side (recording, or this run) and find which of them a request continues."""

    def __init__(self) -> None:
        self._conversations: dict[int, Conversation] = {}
        self._index: dict[tuple[str, ...], list[int]] = defaultdict(list)

    def add(self, number: int, conversation: Conversation, given: Reply | None) -> None:
        """Keep an answered request under `number`. An answer that says nothing (None) cannot be continued."""
        if given is None:
            return
        self._conversations[number] = conversation
        chain = conversation.chain[conversation.asked]
        last = conversation.messages[max(conversation.asked - 1, 0) : conversation.asked]
        self._index["chain", chain].append(number)
        for key in given.names:
            self._index["chain", chain, key].append(number)
            self._index["last", *last, key].append(number)
            self._index["reply", key].append(number)

    def origin(self, conversation: Conversation) -> Origin:
        """Return which answer of this side a request continues: the latest that its assistant turns show.

        An assistant turn that is no answer of this side (a prefill, an example, an inserted turn) is passed
        over. An answer with only weak evidence is returned if no other has certain evidence.
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
        """Yield what shows who gave the assistant turn at a position, surest first: (index key, is sure)."""
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
            yield ("reply", *turn.calls), len(turn.text) >= UNIQUE_TEXT

    def _not_examples(self, conversation: Conversation, position: int, found: Iterable[int]) -> list[int]:
        """Return `found` without the answers whose own request holds the same turn at the same place.

        In such a request the turn stood in the prompt already, so it is an example and no answer.
        """
        through = conversation.chain[position + 1]
        held = position + 1
        others = ((number, self._conversations[number].chain) for number in found)
        return [number for number, chain in others if len(chain) <= held or chain[held] != through]

    def _nearest(self, conversation: Conversation, position: int, found: list[int]) -> list[int]:
        """Cut answers that all fit to the best: same session, same tools and system, most shared history."""
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
    """Return how many items two sequences share at their beginnings plus at their ends."""
    return common_prefix(one, other) + common_prefix(one[::-1], other[::-1])


_SHARES_NOTHING = 0.1
"""Cosine similarity (0 to 1) below which two prompts are taken to be different calls."""


def is_reshaped(asked: Conversation, match: Match, recorded: Recorded, served: Container[int]) -> bool:
    """Return whether a request and its recorded match have different places in the conversations.

    `served` has the indices of the exchanges that answered earlier requests of this run.
    """
    then, origin = recorded[match.index], recorded.origins[match.index]
    if not match.origin.agrees(origin):
        return True
    if match.how is Paired.EXACT:
        return False
    uncertain = match.origin.may_open or match.how is Paired.SIMILAR
    if uncertain and recorded.was_said_elsewhere(asked, match.index):
        return True
    if match.origin.parents.isdisjoint(origin.parents):
        return _is_another_call(asked, match, recorded, served)
    if asked.repeats_itself and not then.repeats_itself:
        return True
    if match.origin.position < 0:
        return False
    return asked.tool_results(match.origin.position) != then.tool_results(origin.position)


def _is_another_call(asked: Conversation, match: Match, recorded: Recorded, served: Container[int]) -> bool:
    """Return whether a request is another call than the recorded opening that it was matched to.

    It is if it says more than the opening, or rather repeats an opening that was asked already. Matched by
    order alone, it also is if there are several openings, or if it shares almost nothing with this one.
    """
    then = recorded[match.index]
    if asked.chain[-1] == then.chain[-1]:
        return False
    if asked.says_more_than(then):
        return True
    roots = recorded.roots(asked.request)
    asked_already = (recorded[index].words for index in roots if index in served)
    if not recorded.is_told_by(asked.words, match.index) and any(
        is_rather(asked.words, other, then.words) for other in asked_already
    ):
        return True
    if match.how is not Paired.ORDER:
        return False
    return len(roots) > 1 or recorded.shared(asked, match.index) < _SHARES_NOTHING
