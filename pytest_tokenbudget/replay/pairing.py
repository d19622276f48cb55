"""Which recorded exchange answers a request that the agent sends now, and how sure that is.

In this order: the same bytes; the conversation that it continues; what it says; the order of the recording.
A request whose place in the conversations is known never falls through to a weaker reason: an agent that asks
again what it asked, or asks more than was recorded, gets nothing (a miss). A pair whose two requests do not
have the same place is `reshaped`. Both make a scenario stale, which is the point: replayed in mere order, an
agent that loops seems to get cheaper.
"""

from __future__ import annotations

import threading
from collections.abc import Container, Iterable, Sequence

from pytest_tokenbudget.model import Paired
from pytest_tokenbudget.replay.conversation import Conversation, reply
from pytest_tokenbudget.replay.lineage import Lineage, Origin
from pytest_tokenbudget.replay.recorded import Match, Recorded, is_free
from pytest_tokenbudget.replay.shape import is_reshaped
from pytest_tokenbudget.replay.similarity import alike, cosine, holds
from pytest_tokenbudget.wire.exchange import Exchange, Pair, Request


class Recording:
    """The exchanges of one cassette, and the requests of this run as they are paired with them. Thread-safe.

    An exchange answers one request only, except token counts, which are free and may be asked for again. With
    `repeats`, an exchange that is asked for again counts as if it had been recorded once more, and a request
    that nothing else answers is given the first that may: as `allow_playback_repeats` of vcr has it.
    """

    def __init__(self, exchanges: Sequence[Exchange] = (), *, repeats: bool = False) -> None:
        self.exchanges = list(exchanges)
        self._repeats = repeats
        self._recorded = Recorded(self.exchanges)
        self._count = len(self.exchanges)
        self._lock = threading.Lock()
        self._new = Lineage()  # requests of this run, each under the number of the exchange that answered it
        self._served: dict[int, Conversation] = {}
        self._last: dict[str, int] = {}  # by digest of a request: the exchange that answered it last
        self._said: dict[
            tuple[str, str], tuple[int, frozenset[int]]
        ] = {}  # by content; and what it continued
        self._pairs: list[Pair] = []
        self._token_counts: list[Pair] = []
        self._misses: list[Request] = []
        self._reshaped: list[Pair] = []

    @property
    def pairs(self) -> tuple[Pair, ...]:
        """Every answered request of this run, failed attempts included, in the order of arrival."""
        return tuple(self._pairs)

    @property
    def token_counts(self) -> tuple[Pair, ...]:
        """Answered `count_tokens` requests; where one is not exact, the number that it was given is old."""
        return tuple(self._token_counts)

    @property
    def misses(self) -> tuple[Request, ...]:
        """Requests that the recording cannot answer."""
        return tuple(self._misses)

    @property
    def reshaped(self) -> tuple[Pair, ...]:
        """Pairs whose place in the conversations is another than the recorded one's."""
        return tuple(self._reshaped)

    @property
    def unplayed(self) -> tuple[Exchange, ...]:
        """Recorded turns that nobody asked for; failed attempts and token counts are none."""
        return tuple(
            exchange
            for index, exchange in enumerate(self.exchanges)
            if index not in self._served and exchange.answer.billed and not is_free(exchange.request)
        )

    def choose(
        self, request: Request, *, required: bool = True, among: Container[int] | None = None
    ) -> Match | None:
        """Pair a request with the exchange that answers it, which then answers no other.

        None where there is none, `among` those that may: a miss, if an answer is `required`.
        """
        conversation = Conversation(request, among)
        with self._lock:
            origin = self._new.origin(conversation)
            match = self._find(conversation, origin) or self._repeated(conversation, origin)
            if match is None:
                if required:
                    self._misses.append(request)
            else:
                self._keep(conversation, match)
            return match

    def choose_exact(self, request: Request) -> Match | None:
        """As `choose`, but only the same bytes at the same place, whose answer says what it billed; else
        None, which leaves everything as it was.
        """
        conversation = Conversation(request)
        with self._lock:
            match = self._same_bytes(conversation, self._new.origin(conversation))
            if match is None or self.exchanges[match.index].answer.is_unknown:
                return None
            if is_reshaped(conversation, match, self._recorded, self._served):
                return None
            self._keep(conversation, match)
            return match

    def _keep(self, conversation: Conversation, match: Match) -> None:
        exchange = self.exchanges[match.index]
        pair = Pair(match.index, conversation.request, exchange.request, exchange.answer, match.how)
        if is_free(conversation.request):
            self._served[match.index] = conversation
            self._token_counts.append(pair)
            return
        repeated = match.index >= self._count  # which has no place of its own
        if not repeated and is_reshaped(conversation, match, self._recorded, self._served):
            self._reshaped.append(pair)
        self._pairs.append(pair)
        self._served[match.index] = conversation
        self._last[conversation.request.digest] = match.index
        self._said[conversation.content] = match.index, match.origin.parents
        if exchange.answer.billed:
            self._new.add(match.index, conversation, reply(exchange.answer))

    def _find(self, asked: Conversation, origin: Origin) -> Match | None:
        match = self._same_custom_id(asked, origin) or self._same_bytes(asked, origin)
        if match:
            return match
        last = self._last.get(asked.request.digest)
        if last is not None and not self.exchanges[last].answer.billed:
            return self._retry(asked, origin, last)
        if origin.may_open:
            return self._opening(asked, origin)
        found = self._not_yet(asked, origin, self._recorded.successors(origin.parents))
        return Match(self._recorded.best(asked, found), Paired.LINEAGE, origin) if found else None

    def _same_custom_id(self, asked: Conversation, origin: Origin) -> Match | None:
        """The same entry of a batch, by the name that the agent gave it."""
        found = self._unplayed(asked, self._recorded.by_custom_id.get(asked.request.custom_id, ()))
        if not found:
            return None
        same = [i for i in found if self.exchanges[i].request.digest == asked.request.digest]
        return Match((same or found)[0], Paired.EXACT if same else Paired.LINEAGE, origin)

    def _same_bytes(self, asked: Conversation, origin: Origin) -> Match | None:
        """The first recorded request of the same bytes; of several, one at the same place."""
        found = self._unplayed(asked, self._recorded.by_digest.get(asked.request.digest, ()))
        if not found:
            return None
        placed = [index for index in found if origin.agrees(self._recorded.origins[index])]
        return Match((placed or found)[0], Paired.EXACT, origin)

    def _retry(self, asked: Conversation, origin: Origin, failed: int) -> Match | None:
        """The next attempt at what a failed attempt was paired with."""
        digest = self.exchanges[failed].request.digest
        found = self._unplayed(asked, self._recorded.by_digest[digest])
        how = next(pair.how for pair in reversed(self._pairs) if pair.index == failed)
        return Match(found[0], how, origin) if found else None

    def _repeated(self, asked: Conversation, origin: Origin) -> Match | None:
        """Once more what answered the same request before, or else the first that may answer."""
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
        """Pair a request that opens a conversation, or that continues one without showing it for certain."""
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
        """Recorded requests that continue an answer of this run, and that `asked` may stand for.

        Either a short answer says so, or the request holds nothing of its conversation but the last message:
        a history cut to one message, or replaced by a summary.
        """
        if origin.parents:
            found = self._recorded.successors(origin.parents)
            return [index for index in found if not self._recorded.origins[index].may_open]
        if any(turn.ids for _, turn in asked.turns):  # it has a history, and it is not that of this run
            return []
        return [i for i in self._recorded.successors(self._served) if self._says_the_same(asked, i)]

    def _says_the_same(self, asked: Conversation, index: int) -> bool:
        """Whether a request says what a recorded one added to its conversation."""
        if index in self._served or self._recorded.origins[index].may_open:
            return False
        recorded = self._recorded[index]
        if asked.last == recorded.last:
            return True
        parents = self._recorded.origins[index].parents & self._served.keys()
        known = frozenset[str]().union(*(self._served[parent].words for parent in parents))
        return holds(asked.last_words, recorded.last_words - known)

    def _rather_opens(self, asked: Conversation, root: int, following: Sequence[int]) -> bool:
        """Whether a request is more like a recorded opening than like what may follow."""
        opening, best = self._recorded[root], self._recorded[self._recorded.best(asked, following)]
        if asked.chain[-1] == opening.chain[-1]:
            return True
        as_root = cosine(asked.words, opening.words)
        return alike(asked.words, opening.words) and as_root > cosine(asked.last_words, best.last_words)

    def _root(self, asked: Conversation, index: int) -> Match | None:
        """None where all that is alike is answered already: it is one more of these, no other rewritten."""
        if self._recorded.is_alike(asked, index):
            return Match(index, Paired.SIMILAR, Origin())
        opened = (root for root in self._recorded.roots(asked.request) if root in self._served)
        if any(self._recorded.is_alike(asked, root) for root in opened):
            return None
        return Match(index, Paired.ORDER, Origin())

    def _unplayed(self, asked: Conversation, found: Iterable[int]) -> list[int]:
        """Those that have answered nothing yet; of token counts all, where every one has."""
        found = self._may_answer(asked, found)
        unplayed = [index for index in found if index not in self._served]
        return found if is_free(asked.request) and not unplayed else unplayed

    def _may_answer(self, asked: Conversation, found: Iterable[int]) -> list[int]:
        found = self._recorded.of_the_same_api(asked.request, found)
        return [index for index in found if asked.answers is None or index in asked.answers]

    def _not_yet(self, asked: Conversation, origin: Origin, found: Iterable[int]) -> list[int]:
        """Unplayed ones; of what this run has asked already, at this very place, only what was asked so.

        Whoever sends the same content again can pair only with what sent the same messages again.
        """
        unplayed = self._unplayed(asked, found)
        last, parents = self._said.get(asked.content, (None, frozenset()))
        if last is None or is_free(asked.request) or not self.exchanges[last].answer.billed:
            return unplayed
        if origin.sure and origin.parents - parents:  # short windows of a long conversation can be equal
            return unplayed
        said = self._recorded[last].chain[-1]
        return [index for index in unplayed if self._recorded[index].chain[-1] == said]
