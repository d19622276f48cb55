"""Answer the requests of one cassette in one run, keep real calls, and remember what went wrong.

A cassette that a fixture of wider scope holds open serves many tests, so each request is booked to the test
or fixture that asked it. Real calls make a new recording, together with what was replayed. A process that a
test forks has a copy of all this, which nobody reads, so its calls are refused. A recorded answer is served
uncompressed, in the framing that is asked for, and without a wait.
"""

from __future__ import annotations

import contextlib
import json
import mmap
import os
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, NoReturn, Protocol, TypeVar

from pytest_tokenbudget.errors import CassetteError, RecordingError, ReplayMiss
from pytest_tokenbudget.replay.cassette_file import Interaction
from pytest_tokenbudget.replay.credentials import TOKEN
from pytest_tokenbudget.replay.pairing import Match, Recording, is_free
from pytest_tokenbudget.replay.redaction import Redactor
from pytest_tokenbudget.replay.traffic import (
    LOOPBACK,
    Left,
    MessageThreads,
    Sent,
    Traffic,
    answer_body,
    answer_to,
    hides_text,
    how_left,
    left_answer,
    lower,
    may_be_of_a_thread,
    overtaken,
    session_of,
    status,
)
from pytest_tokenbudget.wire.exchange import PLACEHOLDER, Accepted, Answer, Exchange, Pair, Request, StandIn
from pytest_tokenbudget.wire.framing import decode_body, parse_body, transcode
from pytest_tokenbudget.wire.prompt import Prompt, as_mapping, mappings
from pytest_tokenbudget.wire.requests import first_difference, meaning
from pytest_tokenbudget.wording import listed

AcceptedIn = Callable[[Sequence[Exchange]], Mapping[int, Accepted]]
"""Returns what was accepted in place of the exchanges of a recording, by the index of the exchange."""


class Ledger:
    """One cassette while a test, or a fixture of wider scope, runs. Thread-safe.

    Requests and answers have vcr's shape, as in `cassette_file.Interaction`. Nothing here knows vcr, so that
    the proxy for other processes uses the same ledger.
    """

    def __init__(
        self, name: str, command: str, interactions: Sequence[Interaction] = (), rules: Rules | None = None
    ) -> None:
        """Open an account for `name`, a test or fixture. Raises CassetteError.

        `command` is the command that records what is missing, for messages.
        """
        self.name = name
        self.rules = rules or Rules()
        self.problems: list[str] = []
        """Why this run cannot be judged, in sentences, beside what `recording` knows."""
        self.warnings: list[str] = []
        """What is not metered, or may be inexact, in sentences."""
        self.threads: set[threading.Thread] = set()
        """Threads in which a model was asked: an exporter of telemetry may live as long as it likes."""
        self.mismatches: list[tuple[str, str]] = []
        """(asker, a sentence about what differs) for each request that `match_on` lets nothing answer. It was
        answered with the exchange that it pairs with, so that it is measured."""
        self.closed = False
        """Whether the cassette was closed again."""
        self.over = threading.Event()
        """Set when the test or fixture is over, which threads wait for whose call outlived it."""
        self.shared = False
        """Whether several tests ask it. Then turns that nobody asked for say nothing about one of them."""
        self._command = command
        self._asker = self.rules.asker or (lambda: name)
        self._traffic = Traffic(interactions, sort_keys=self.rules.sort_keys)
        self._forks = Forks()
        self._lock = threading.Lock()
        self._begin()

    def _begin(self) -> None:
        """Begin with nothing asked of what `_traffic` holds."""
        self.read = self._traffic.reader.read
        """Reads a request in vcr's shape (`Reader.read`)."""
        self.recording = Recording(
            self._traffic.exchanges,
            repeats=self.rules.repeats,
            accepted=lambda: self.rules.accepted(self._traffic.exchanges),
        )
        self.first: Request | None = None
        """The first model request that it was asked; None if there was none."""
        self._accounts = Accounts(self.recording, self.name)
        self._carriers = dict(zip(map(id, self._traffic.exchanges), self._traffic.carriers, strict=True))
        self._calls = Calls(self.name)
        self._threads = MessageThreads()  # the message threads of this run
        self._played: set[int] = set()
        self._overtaken = overtaken(self._traffic.interactions, {*self._traffic.carriers})
        self._awaited = {call.last: threading.Event() for call in self._overtaken.values()}
        self._answers = Answers(untouched=self.rules.untouched)
        self._at_once = AtOnce()

    def end(self) -> None:
        """Note that the test or fixture is over, before it is measured: calls under way outlive it."""
        self._calls.outlived()
        self.over.set()
        self._hold_nothing()

    def forget(self) -> None:
        """Drop what is recorded and what was asked, once all of it is judged.

        Whoever still holds the ledger (the traceback of a failure, a cassette of vcr's) then holds no bodies.
        """
        with self._lock:
            self._traffic = Traffic(())
            self._begin()

    @property
    def calls(self) -> tuple[Exchange, ...]:
        """Exchanges that were really called, in the order of the calls."""
        return self._calls.exchanges

    @property
    def last_failure(self) -> str | None:
        """How the last model call of this run failed for good, or None if it did not."""
        return self._calls.last_failure

    def called(self, asker: str) -> Calls:
        """Return the real calls of one test or fixture."""
        return self._calls.by(asker)

    def interactions(self) -> list[Interaction]:
        """Return the interactions of a new recording of this run, in the order of the requests.

        Redact them before you write them. Raises RecordingError if an answer is not whole.
        """
        return self._calls.interactions()

    @property
    def now_at_once(self) -> list[tuple[Exchange, Exchange]]:
        """Pairs of turns that this run asked for at once, and that were recorded one after the other.

        Only what was seen counts: the second was asked before the first had its answer. Times are compared
        only within one recording session. None if any turns were recorded at once: which turns of agents at
        once meet is chance.
        """
        if _were_at_once(self.recording.exchanges):
            return []
        seen = [[self.recording.exchanges[index] for index in pair] for pair in self._at_once.pairs]
        return [(one, other) for pair in seen for one, other in (pair, pair[::-1]) if _apart(one, other)]

    def account(self, asker: str) -> Account:
        """Return the account of one test or fixture."""
        if self._forks.told():
            self._accounts.forked(asker, f"{self.name}: {FORKED}")
        return self._accounts.of(asker, shared=self.shared)

    def find(self, sent: Sent, playable: Playable | None = None) -> Found | None:
        """Return the recorded answer; None if the request is to be really called, by `begin` and `finish`.

        `playable` says what may answer it (None: anything). Raises ReplayMiss if it may not be called.
        """
        with self.asking():
            return self._find(sent, playable)

    def asking(self) -> contextlib.AbstractContextManager[None]:
        """Return a context in which a request is under way, until its answer begins."""
        return self._at_once.asking()

    def _find(self, sent: Sent, playable: Playable | None) -> Found | None:
        if (known := self._known(sent)) is not None:
            return Found(-1, known)
        if self.rules.outside:
            self.check_key(sent)
            return None
        if sent.request and self._forks.inside and not self.rules.untouched:
            self._forks.tell()
            raise RecordingError(f"{self.name}: {FORKED}")  # no miss: a pool would wait for ever
        if sent.request:
            self.threads.add(threading.current_thread())
        if self.rules.redactor:
            self.rules.redactor.notice(sent.raw)
        self.notice(sent)
        sent = self._in_full(self._as_recorded(sent))
        with self._lock:
            self.first = self.first or sent.request
            left = self._left(playable) if playable else None
            if playable and playable.refusal:
                number = self._despite(sent, playable)
            else:
                number = self._number(sent, left)
            if number is not None:
                self._note_played(number)
        if number is None:
            return self._unanswered(sent, playable, required=bool(left))
        answer = self._answer(number, sent)
        if self.rules.calls:
            self._keep_replayed(number, sent, answer)
            return Found(number, answer)
        return Found(number, answer, self._held(number))

    def _note_played(self, number: int) -> None:
        self._played.add(number)
        if number in self._awaited:
            self._awaited[number].set()

    def _held(self, number: int) -> Held | None:
        """Return what the answer to an overtaken call waits for, or None if it is given at once."""
        call = self._overtaken.get(number)
        if call is None or self._awaited[call.last].is_set():
            return None
        return Held(self._awaited[call.last], patience(call.pause), self._hold_nothing)

    def _hold_nothing(self) -> None:
        for asked in self._awaited.values():
            asked.set()

    def _known(self, sent: Sent) -> dict[str, Any] | None:
        """Return the answer to a request that needs none from a recording or a server; None for any other."""
        if sent.request is None and sent.host in self.rules.ignored_hosts:
            return _empty(200, "OK")
        if sent.asks_for_a_token and not (self.rules.outside or self.rules.calls):
            return _empty(200, "OK") | {"body": {"string": json.dumps(TOKEN).encode()}}
        return None

    def _keep_replayed(self, number: int, sent: Sent, answer: Mapping[str, Any]) -> None:
        """Keep what the recording answered, beside what is really called: for the new one, and the limits."""
        self._calls.replayed(sent, self._traffic.interactions[number])
        if self.rules.limits and sent.costs:
            self.rules.limits.replayed(self._asker(), sent, answer)

    def begin(self, sent: Sent) -> Call:
        """Begin a real call. Raises ReplayMiss if the limits refuse it."""
        call = Call(sent, sent.raw, time.monotonic(), asker=self._asker())
        if self.rules.limits and sent.costs:
            whole = sent.in_full(self._threads, self._traffic.reader)
            call.requests = (whole or sent).requests
            call.is_whole = whole is not None
            self.rules.limits.begin(call)
        if not self.rules.passes_by(sent):
            self._calls.add(call)
        return call

    def finish(self, call: Call, answer: Mapping[str, Any]) -> None:
        """Keep the whole answer of a real call."""
        self._calls.finish(call, answer)
        if call.sent.request and call.answer is not None and may_be_of_a_thread(call.sent.body):
            self._threads.keep(call.sent.body, answer_to(call.sent.request, call.answer).message)
        if self.rules.limits and call.sent.costs:
            self.rules.limits.finish(call)

    def check_key(self, sent: Sent) -> None:
        """Raise ReplayMiss for a request that would show a server a mere stand-in for a key."""
        if sent.has_no_key:
            self.refuse(
                f"{self.name}: {sent} would be really sent, and no key is set: what stands in for one in "
                "replay is shown to no server. Set the key, or give the test a cassette that answers it."
            )

    def notice(self, sent: Sent) -> None:
        """Warn about a request whose tokens no answer reports."""
        if reason := sent.unmetered:
            self.warn(reason)

    def warn(self, what: str) -> None:
        """Keep a warning, unless it was given before."""
        what = self._told(what)
        if what not in self.warnings:
            self.warnings.append(what)

    def doubt(self, problem: str) -> None:
        """Keep a problem that makes it impossible to judge this run, unless it is known."""
        problem = self._told(problem)
        if problem not in self.problems:
            self.problems.append(problem)
            self._accounts.refused(self._asker(), problem)

    def overdue(self, sent: Sent, how: Left) -> NoReturn:
        """Refuse a call that was given up when it was recorded, but whose answer the agent waits for now."""
        self.refuse(
            f"{self.name}: {sent} was {how} when it was recorded, and the agent waits for its answer now, "
            f"which nobody knows. Record it: {self._command}"
        )

    def refuse(self, problem: str) -> NoReturn:
        """Keep a problem and raise it as ReplayMiss, which the agent does not catch."""
        self.doubt(problem)
        raise ReplayMiss(self._told(problem))

    def _told(self, text: str) -> str:
        """Return a text without secrets, if a redactor is set: the agent may log the errors that it gets."""
        return self.rules.redactor.text(text) if self.rules.redactor else text

    # --- finding ------------------------------------------------------------------------------------------

    def _left(self, playable: Playable) -> frozenset[int]:
        """Return the playable interactions that no other thread has played in the meantime."""
        return playable.numbers if self.rules.repeats else playable.numbers - self._played

    def _number(self, sent: Sent, left: frozenset[int] | None) -> int | None:
        """Return the index of the interaction that answers a request; one of `left` (None: any), or None."""
        if sent.request is None:
            return self._other(sent)
        if sent.is_about_a_batch:
            return self._next(sent, left)
        if sent.request.endpoint.api == "batch_create":
            return self._created(sent, sent.request, left)
        match = self._choose(sent.request, left)
        if match is None:
            return None
        self._threads.keep(sent.body, self.recording.exchanges[match.index].answer.message)
        return self._carrier(match)

    def _despite(self, sent: Sent, playable: Playable) -> int | None:
        """Return the interaction that answers a model call although `match_on` refuses it; None without one.

        The refusal is kept and fails the test, but the change is counted all the same. So it is where the
        suite would record the request, and no key is set. A request that differs in its address alone has no
        change to count: it is refused, as vcr does.
        """
        request = sent.request
        if request is None or request.endpoint.api != "messages" or not playable.differs:
            return None
        if playable.is_elsewhere or (self.rules.calls and not sent.has_no_key):
            return None
        match = self.recording.choose(request, required=False)
        if match is None:
            return None
        self._book(match)
        exchange = self.recording.exchanges[match.index]
        self._threads.keep(sent.body, exchange.answer.message)
        where = first_difference(exchange.request, request)
        differs = f"match_on: {differ(playable.differs)}" + (f" at {where}" if where else "")
        told = f"{self.name}: {playable.refusal} {differs}. Record it: {self._command}"
        self.mismatches.append((self._asker(), self._told(told)))
        return self._carrier(match)

    def _as_recorded(self, sent: Sent) -> Sent:
        """Return a request without secrets, if they were hidden in the recording.

        If they were not, any secrets in a prompt count as a change.
        """
        if self.rules.redactor is None or self.rules.untouched:
            return sent
        if not (self._traffic.hides_text or self._hides_accepted(sent)):
            return sent
        return self.read(self.rules.redactor(sent.raw), sent.url)

    def _hides_accepted(self, sent: Sent) -> bool:
        """Return whether a request may be an accepted one, and something is hidden in those."""
        if sent.request is None or self.recording.is_recorded(sent.request):
            return False
        return self._accepted_hides_text

    @cached_property
    def _accepted_hides_text(self) -> bool:
        requests = (accepted.request for accepted in self.recording.accepted.values())
        return any(request is not None and hides_text(request.body or {}) for request in requests)

    def _in_full(self, sent: Sent) -> Sent:
        whole = sent.in_full(self._threads, self._traffic.reader)
        if whole is None:
            self.warn("a request continues a message thread that began elsewhere, and whose text is unknown")
        return whole or sent

    def _carrier(self, match: Match) -> int:
        """Return the index of the interaction that holds an exchange (a repeated one is the same object)."""
        return self._carriers[id(self.recording.exchanges[match.index])]

    def _choose(self, request: Request, left: frozenset[int] | None) -> Match | None:
        if self.rules.exact:
            match = self.recording.choose_exact(request, but=self._left_calls)
        else:
            required = bool(left) or not self.rules.calls
            match = self.recording.choose(request, required=required, among=self._exchanges(left))
            if match is None and required:
                self._accounts.missed(self._asker())
        if match is not None:
            self._book(match)
            self._at_once.found(match.index)
        return match

    @cached_property
    def _left_calls(self) -> frozenset[int]:
        """Exchanges whose call was left: nobody knows whether the agent waits for the answer now."""
        answers = self._traffic.interactions
        exchanges = enumerate(self._traffic.exchanges)
        return frozenset(n for n, one in exchanges if how_left(answers[self._carriers[id(one)]][1]))

    def _book(self, match: Match) -> None:
        if match.displaced is not None:
            self._accounts.displaced(match.index, follows=match.displaced.follows)
        self._accounts.asked(match.index, self._asker())

    def _exchanges(self, left: frozenset[int] | None) -> frozenset[int] | None:
        """Return the indices of the exchanges whose answers are in the interactions `left`; None for any."""
        every = enumerate(self.recording.exchanges)
        return left and frozenset(index for index, one in every if self._carriers[id(one)] in left)

    def _created(self, sent: Sent, request: Request, left: frozenset[int] | None) -> int | None:
        """Return the interaction that created the batch with the answers to all entries of this one."""
        number = self._next(sent, left)  # a recorded attempt that failed
        if number is not None:
            return number
        if self.rules.exact and not self._unplayed(self._traffic.batches.get(request.digest, ())):
            return None
        matches = [self._choose(entry, left) for entry in sent.entries]
        found = {self._carrier(match) if match else None for match in matches}
        if len(found) != 1 or (number := found.pop()) is None:
            return None
        names: dict[str, str | None] = {
            str(one.request.custom_id): None
            for one in self.recording.exchanges
            if self._carriers[id(one)] == number
        }
        for match, entry in zip(matches, sent.entries, strict=True):
            if match:
                was = self.recording.exchanges[match.index].request
                names[str(was.custom_id)] = str(entry.custom_id)
        self._answers.name(self._traffic.interactions[number][1], names)
        return number

    def _other(self, sent: Sent) -> int | None:
        """Return the interaction that answers a request which is no model call: by method, path and order.

        The same address comes first, then another query, then another host if this host is not recorded. A
        path that is recorded nowhere may differ in ids that the client makes. If a request is made more often
        than it was recorded, it gets the last answer again.
        """
        held = self._traffic.others.get(sent.route) or self._traffic.alike(sent)
        same = [(number, one) for number, one in held if one.address == sent.address]
        if self.rules.exact:
            same = [
                (number, one) for number, one in same if one.content == sent.content or not sent.is_upload
            ]
        if self.rules.exact or self.rules.passes_by(sent):
            held = same
        elif any(one.host == sent.host for _, one in held):
            held = [(number, one) for number, one in held if one.host == sent.host]
        left = [entry for entry in (*same, *held) if entry[0] not in self._played]
        if not left and self.rules.calls:
            return None
        if not left and held and not self.rules.repeats:
            self.warn(f"{sent.place} was asked more often than it was recorded: it got the last answer again")
        answering = left[:1] or (same or held)[-1:]
        if not answering:
            return None
        number, recorded = answering[0]
        if sent.route != recorded.route:
            self.warn(f"{sent.place} is answered as {recorded.place} was: the id in its path is another one")
        if sent.is_upload and recorded.content != sent.content:
            self.warn(
                f"{sent.place} uploads another file than was recorded, under the recorded id: nobody can "
                "tell what it counts. Record the test anew"
            )
        return number

    def _is_missing(self, sent: Sent) -> bool:
        """Return whether a request is no model call and has no answer: it may not be really sent either."""
        model_call = sent.request is not None or sent.unmetered is not None
        return not (model_call or self.rules.calls or self.rules.passes_by(sent))

    def _unanswered(self, sent: Sent, playable: Playable | None, *, required: bool) -> Found | None:
        """Return what stands in for an answer that is not recorded; None if the request may be called.

        Raises ReplayMiss for all others.
        """
        if self._is_missing(sent):
            return Found(-1, self._refused_quietly(sent))
        if sent.request is not None and self._may_stand_in(sent.request, playable or Playable()):
            return Found(-1, served(_placeholder(sent.request), sent))
        self._allow_call(sent, playable, required=required)
        return None

    def _may_stand_in(self, request: Request, playable: Playable) -> bool:
        """Return whether a placeholder may answer a request, and if so, count it.

        The miss was recorded already, unless `match_on` refused the request.
        """
        if not self.rules.placeholder or playable.is_elsewhere:
            return False
        if request.endpoint.api != "messages" or _is_forced(request.prompt):
            return False
        asker = self._asker()
        with self._lock:
            if not self._accounts.has_placeholder(asker):
                return False
            if playable.refusal:
                self.recording.miss(request)
                self._accounts.missed(asker)
            self._accounts.stand_in(asker)
            return True

    def _refused_quietly(self, sent: Sent) -> dict[str, Any]:
        """Return an answer that makes a client give up at once, and warn about it."""
        self.warn(
            f"{sent.place} is no model call, and is not in the recording: it was refused, which decides "
            "nothing. Name its host in ignored_hosts of [tool.tokenbudget], or record the test anew"
        )
        return _empty(_REFUSED, "not recorded")

    def _next(self, sent: Sent, left: frozenset[int] | None) -> int | None:
        """Return the next unplayed interaction with the same address.

        If all are played, a batch's state and results get the last answer again; so does all else with
        `repeats`.
        """
        numbers = self._traffic.by_address.get(sent.address, [])
        numbers = [number for number in numbers if left is None or number in left]
        unplayed = self._unplayed(numbers)
        if not unplayed and numbers and (self.rules.repeats or sent.is_about_a_batch):
            return numbers[-1]
        return unplayed[0] if unplayed else None

    def _unplayed(self, numbers: Sequence[int]) -> list[int]:
        return [number for number in numbers if number not in self._played]

    def _answer(self, number: int, sent: Sent) -> dict[str, Any]:
        if sent.costs:
            self.rules.answered()
        if sent.request and is_free(sent.request) and (counted := self._counted(number, sent.request)):
            return served(counted, sent)
        try:
            return self._answers.serve(self._traffic.interactions[number][1], sent)
        except CassetteError as error:
            where = f" in the cassette {self.rules.cassette}" if self.rules.cassette else ""
            self.refuse(f"{self.name}: {error} It answers {sent}{where}.")

    def _counted(self, number: int, request: Request) -> dict[str, Any] | None:
        """Return the answer to a token count of a request that was not recorded, in vcr's shape.

        None where it was recorded, and where it cannot be counted: then the recorded answer serves.
        """
        held = (one for one in self.recording.exchanges if self._carriers[id(one)] == number)
        recorded = next(held)
        if meaning(recorded.request) == meaning(request):
            return None
        counted = None if self.rules.calls else self.rules.count(recorded, request)
        if counted is None:
            self.warn(
                "count_tokens is answered with the number of another request, as this one cannot be counted: "
                "the agent may decide otherwise by its own"
            )
            return None
        tokens, interval = counted
        if interval is not None:
            self.warn(
                f"count_tokens is answered with an estimate ({interval}): the agent may decide otherwise by "
                "the true number"
            )
        return _empty(200, "OK") | {"body": {"string": json.dumps({"input_tokens": tokens}).encode()}}

    # --- refusing -----------------------------------------------------------------------------------------

    def _allow_call(self, sent: Sent, playable: Playable | None, *, required: bool) -> None:
        """Return if a request may be really sent; else raise ReplayMiss.

        It may not if vcr has an answer to it (`required`), except if it goes to a server of the test itself.
        """
        if self.rules.calls and not required:
            self.check_key(sent)
            return
        if self.rules.passes_by(sent):
            return
        if self.rules.redactor and sent.request:
            self.rules.redactor.learn(sent.request.body)
        missing, record = f"{self.name}: the recording has no answer to {sent}", f"Record it: {self._command}"
        if playable and playable.refusal:
            self.refuse(f"{missing}: {playable.elsewhere or playable.refusal} {record}")
        if sent.request is None or sent.is_about_a_batch:
            self.refuse(f"{missing}, and nothing reaches the network in replay. {record}")
        more = "The agent asks for more than was recorded, or for the same again."
        raise ReplayMiss(self._told(f"{missing}. {more} {record}"))  # the recording keeps the miss


_MINE: ContextVar[list[int] | None] = ContextVar("mine", default=None)
"""The exchanges that the request of this thread, or task, was given; None where it asks nothing."""


class AtOnce:
    """Find recorded exchanges that are asked for at once: one before the other is answered. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._asking: list[list[int]] = []
        self._met: list[tuple[list[int], list[int]]] = []

    @contextlib.contextmanager
    def asking(self) -> Iterator[None]:
        """Mark this thread or task as asking while the context lasts; nested contexts change nothing."""
        if _MINE.get() is not None:
            yield
            return
        mine: list[int] = []
        token = _MINE.set(mine)
        with self._lock:
            self._met += [(other, mine) for other in self._asking]
            self._asking.append(mine)
        try:
            yield
        finally:
            _MINE.reset(token)
            with self._lock:
                self._asking = [other for other in self._asking if other is not mine]

    def found(self, index: int) -> None:
        """Note which exchange answers what this thread or task asks."""
        if (mine := _MINE.get()) is not None:
            mine.append(index)

    @property
    def pairs(self) -> list[tuple[int, int]]:
        """The indices of exchanges that were asked for at once, each pair once."""
        with self._lock:
            met = {tuple(sorted((a, b))) for one, other in self._met for a in one for b in other}
        return [(first, second) for first, second in sorted(met)]


def _were_at_once(exchanges: Iterable[Exchange]) -> bool:
    """Return whether one was sent before the answer to an earlier one began, by their recorded times."""
    timed = [(one.answer.sent, one) for one in exchanges if one.answer.sent and one.answer.date]
    timed.sort(key=lambda entry: entry[0])
    sessions: dict[object, Exchange] = {}  # the one sent last: it is the one to overlap, if any is
    for _, exchange in timed:
        before = sessions.get(exchange.answer.recording_session)
        if before is not None and not _apart(before, exchange):
            return True
        sessions[exchange.answer.recording_session] = exchange
    return False


def _apart(first: Exchange, second: Exchange) -> bool:
    """Return whether the second was sent after the answer to the first began, by their recorded times."""
    began, sent = first.answer.date, second.answer.sent
    same = first.answer.recording_session == second.answer.recording_session
    return same and began is not None and sent is not None and began <= sent


class CallLimits(Protocol):
    """Limits of real calls: caps and the spend limit."""

    def begin(self, call: Call) -> None:
        """Count a call that is about to be sent. Raises ReplayMiss if it must not be sent."""

    def finish(self, call: Call) -> None:
        """Count the answer to a call, which is `call.answer`."""

    def replayed(self, asker: str, sent: Sent, answer: Mapping[str, Any]) -> None:
        """Count a turn of a test or fixture that the recording answered, beside its real calls."""


TokenCount = Callable[[Exchange, Request], tuple[int, str | None] | None]
"""Returns the tokens of a request, by the recorded count of another; with their interval in words where they
are estimated. None where they cannot be counted."""


@dataclass(frozen=True, slots=True)
class Rules:
    """How one cassette answers in one run."""

    calls: bool = False
    """Whether what the recording does not answer is really sent."""
    exact: bool = False
    """Whether the recording answers only what was recorded byte for byte."""
    repeats: bool = False
    """Whether what was answered before is answered again, as one more turn."""
    ignored_hosts: frozenset[str] = frozenset()
    """Hosts to which only model calls are sent. All else is answered with an empty 200, recorded or not."""
    free_hosts: frozenset[str] = frozenset()
    """Hosts whose traffic, except model calls, passes by unrecorded. On loopback all but an SDK's does."""
    limits: CallLimits | None = None
    """Limits that are asked before each real model call, and get its answer."""
    untouched: bool = False
    """Whether answers are served as vcr serves them, with waits and compression."""
    sort_keys: bool = False
    """Whether the cassette holds bodies as structures, which lose the order of their keys. That order is then
    ignored, in what was recorded and in what is asked now."""
    redactor: Redactor | None = None
    """Hides in a request what was hidden in the recording, before the two are compared (not if answers are
    `untouched`: the filters of the suite have done that), and secrets in all messages."""
    outside: bool = False
    """Whether no scenario is asking, so that nothing is recorded or metered."""
    placeholder: bool = False
    """Whether a request that nothing answers first gets a placeholder, so that the rest can be bounded."""
    accepted: AcceptedIn = lambda _: {}
    """Returns what was accepted in place of the exchanges of a recording, by the index of the exchange."""
    cassette: str = ""
    """The path of the cassette if it is the user's own."""
    answered: Callable[[], None] = lambda: None
    """Called when the recording has answered a model call."""
    count: TokenCount = lambda *_: None
    """Counts what `count_tokens` is asked to count, where another request was recorded."""
    asker: Callable[[], str] | None = None
    """Returns the test or fixture that asks, if it may differ from the one that opened the cassette."""

    def passes_by(self, sent: Sent) -> bool:
        """Return whether a request is neither recorded nor refused, as for a server of the test itself."""
        if self.outside:
            return True
        own = sent.host in self.free_hosts or (sent.host in LOOPBACK and not sent.is_of_an_sdk)
        return sent.request is None and own


def differ(names: Sequence[str]) -> str:
    """Return that matchers refuse a request, in words: `body differs`, `scheme and host differ`."""
    return f"{listed(names)} {'differs' if len(names) == 1 else 'differ'}"


@dataclass(frozen=True, slots=True)
class Playable:
    """What a user's cassette may answer one request with, by the options that it was opened with."""

    numbers: frozenset[int] = frozenset()
    """Indices of its interactions."""
    refusal: str = ""
    """Why there never were any; empty if there were, though they may all be played by now."""
    differs: tuple[str, ...] = ()
    """Names of the matchers in `match_on` that refuse."""
    recorded_at: str = ""
    """The address of the most similar request that is recorded, without a user or a query."""

    @property
    def is_elsewhere(self) -> bool:
        """Whether only the address differs: the same request may be made, at another host or path."""
        return bool(self.differs) and set(self.differs) <= _ADDRESS

    @property
    def elsewhere(self) -> str:
        """Where it was recorded, and what helps, in words, if only the address differs; else empty."""
        if not self.is_elsewhere:
            return ""
        return (
            f"it was recorded at {self.recorded_at}. Set that base URL, or leave {listed(self.differs)} out "
            "of match_on."
        )


_ADDRESS = frozenset({"method", "scheme", "host", "port", "path", "query", "uri"})
"""Matchers of vcr that compare only method and address."""


@dataclass(frozen=True, slots=True)
class Found:
    """The answer that a recording has for a request."""

    number: int
    """Index of the recorded interaction, from 0; -1 for an answer that is not recorded."""
    answer: dict[str, Any]
    """The answer in vcr's shape, a copy for the caller."""
    held: Held | None = None
    """What the answer waits for; None if it is given at once."""


@dataclass(frozen=True, slots=True)
class Held:
    """An answer that is held back until the agent has asked what it asked before that answer came."""

    asked: threading.Event
    """Set when it is asked, or will not be asked any more."""
    patience: float
    """Seconds after which an agent is taken to go another way now."""
    give_up: Callable[[], None]
    """Holds nothing back any more: the agent goes another way."""

    def wait(self) -> None:
        """Wait until the answer may be given."""
        if not self.asked.wait(self.patience):
            self.give_up()


_LONGER = 2
PATIENCE = 10.0
"""Replay waits `_LONGER` times the recorded time and `PATIENCE` seconds for what an agent did before."""


def patience(recorded: float) -> float:
    """Return how long replay waits for what the agent did, when it was recorded, after so many seconds."""
    return _LONGER * recorded + PATIENCE


_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Account:
    """What one test or fixture asked of a recording, and what it left unplayed; fields as in `Recording`."""

    pairs: tuple[Pair, ...]
    misses: tuple[Request, ...]
    unplayed: tuple[Exchange, ...]
    reshaped: tuple[Pair, ...]
    problems: tuple[str, ...]
    """Why its run cannot be judged, other than by misses, in sentences."""
    edits: tuple[str, ...]
    """Problems that only an edit of the test solves, in sentences."""
    stood_in: tuple[StandIn, ...]
    """What answered those of the misses that got an answer."""
    doubtful: frozenset[int]
    """Positions of the misses that followed a placeholder with no recorded turn between: a loop, maybe, which
    a real answer would have ended."""


class Accounts:
    """Record which test or fixture asked what of one recording."""

    def __init__(self, recording: Recording, opener: str) -> None:
        """Start without entries. Turns that nobody asks for are booked to `opener`."""
        self._recording = recording
        self._opener = opener
        self._asked: dict[int, str] = {}
        self._missed: list[tuple[str, bool]] = []  # and whether a placeholder was the last answer
        self._problems: list[tuple[str, str]] = []
        self._edits: list[tuple[str, str]] = []
        self._stood_in: dict[str, list[StandIn]] = defaultdict(list)
        self._behind: set[str] = set()  # who got a placeholder for the last answer

    def asked(self, number: int, asker: str) -> None:
        """Record who asked for the exchange with this index."""
        self._asked[number] = asker
        self._behind.discard(asker)

    def missed(self, asker: str) -> None:
        """Record who sent the request that was just appended to `recording.misses` (parallel lists)."""
        self._missed.append((asker, asker in self._behind))

    def displaced(self, number: int, *, follows: bool) -> None:
        """Record as a miss the request that got this answer, which so was its placeholder.

        `follows`: it followed such an answer, with no recorded turn between.
        """
        asker = self._asked[number]
        self._missed.append((asker, follows))
        self._stood_in[asker].append(_as_stand_in(self._recording.exchanges[number].answer))

    def refused(self, asker: str, problem: str) -> None:
        """Record a problem, other than a miss, for which an asker's run cannot be judged."""
        self._problems.append((asker, problem))

    def forked(self, asker: str, problem: str) -> None:
        """Record who asked in a forked process, which only an edit of the test can solve."""
        self._edits.append((asker, problem))

    def has_placeholder(self, asker: str) -> bool:
        """Return whether a scenario may get one more placeholder."""
        return len(self._stood_in[asker]) < _PLACEHOLDERS

    def stand_in(self, asker: str) -> None:
        """Count a placeholder."""
        self._stood_in[asker].append(StandIn())
        self._behind.add(asker)

    def of(self, asker: str, *, shared: bool) -> Account:
        """Return the account of one test or fixture.

        If several share the recording, turns that nobody asked for say nothing, and are left out.
        """
        recording = self._recording
        missed = zip(self._missed, recording.misses, strict=False)
        mine = [(behind, request) for (who, behind), request in missed if who == asker]
        return Account(
            pairs=self._mine(asker, recording.pairs),
            misses=tuple(request for _, request in mine),
            unplayed=recording.unplayed if asker == self._opener and not shared else (),
            reshaped=self._mine(asker, recording.reshaped),
            problems=_by(asker, self._problems),
            edits=_by(asker, self._edits),
            stood_in=tuple(self._stood_in[asker]),
            doubtful=frozenset(place for place, (behind, _) in enumerate(mine) if behind),
        )

    def _mine(self, asker: str, pairs: Iterable[Pair]) -> tuple[Pair, ...]:
        return tuple(pair for pair in pairs if self._asked.get(pair.index) == asker)


_OTHER_TOKENIZER = 2
"""How many times the tokens of a text another tokenizer makes of it, at most."""


def _as_stand_in(answer: Answer) -> StandIn:
    """Return a recorded answer as what stood in for another one: its longest text."""
    blocks = mappings((answer.message or {}).get("content"))
    text = max((str(block.get("text") or "") for block in blocks), key=len, default="")
    return StandIn(text, _OTHER_TOKENIZER * (answer.usage.tokens.output_tokens if answer.usage else 0))


def _by(asker: str, told: Iterable[tuple[str, _T]]) -> tuple[_T, ...]:
    return tuple(one for who, one in told if who == asker)


@dataclass(slots=True, eq=False)
class Call:
    """A request of this run that was, or is being, answered. Times are seconds of a monotonic clock."""

    sent: Sent
    request: Mapping[str, Any]
    """The request as a new recording keeps it."""
    started: float
    began: float | None = None
    """When the answer's first byte came, if a proxy or a stream showed it. vcr shows the end of an answer,
    which is taken for the first byte if the answer is not streamed."""
    answer: Mapping[str, Any] | None = None
    """The whole answer in vcr's shape; None until it is there."""
    answered: float | None = None
    """When the whole answer came; None if it was replayed."""
    asker: str = ""
    """The test or fixture that made it, if it was really called."""
    requests: tuple[Request, ...] = ()
    """Its model requests (all entries of a batch), with the conversation that the API keeps."""
    is_whole: bool = True
    """Whether `requests` hold the whole prompt. False if it continues an unknown message thread."""
    thread: int = field(default_factory=threading.get_ident)
    """Id of the thread that sent it."""
    left: bool = False
    """Whether nobody waits for its answer any more."""
    is_read: bool = True
    """Whether the agent reads all of its answer."""
    how: Left | None = None
    """How the agent gave it up before its answer came, if that is known."""
    ended: float = 0.0
    """When the agent gave it up; 0 if it did not."""

    def leave(self, how: Left | None = None) -> None:
        """Note that nobody waits for this call any more.

        It takes no lock, since the garbage collector calls it too.
        """
        self.left = True
        if how is not None and self.answer is None:
            self.how, self.ended = how, time.monotonic()


class Calls:
    """The requests of one run and their answers, replayed and real."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._calls: list[Call] = []
        self._unreadable: list[str] = []

    def replayed(self, sent: Sent, interaction: Interaction) -> None:
        """Keep a request that was answered from the recording."""
        request, answer = interaction
        self._calls.append(Call(sent, request, time.monotonic(), answer=answer))

    def by(self, asker: str) -> Calls:
        """Return the real calls of one test or fixture."""
        calls = Calls(self._name)
        calls._calls = [call for call in self._calls if call.asker == asker]
        return calls

    def add(self, call: Call) -> None:
        """Keep a real call that begins."""
        self._calls.append(call)

    def outlived(self) -> None:
        """Take calls that are still under way for left, whatever their threads hear from now on."""
        for number, call in enumerate(self._calls):
            if call.answer is None and not call.left:
                self._calls[number] = replace(call)
                self._calls[number].leave(Left.OUTLIVED)

    def finish(self, call: Call, answer: Mapping[str, Any]) -> None:
        """Keep the whole answer of a call, decompressed."""
        try:
            call.answer = plain(answer)
        except CassetteError as error:
            self._unreadable.append(f"{self._name}: {error} ({call.sent})")
            call.answer = dict(answer)
        call.answered = time.monotonic()

    @property
    def exchanges(self) -> tuple[Exchange, ...]:
        """Exchanges that were really called, in the order of the calls; batches with the fetched results."""
        called = sorted((call for call in self._calls if call.answered is not None), key=_started)
        return tuple(Traffic([_interaction(call) for call in called]).exchanges)

    def interactions(self) -> list[Interaction]:
        """Return the interactions of a new recording of this run, in the order in which they were sent.

        They are not redacted. If every turn was really called, answers have their `timing`. If only a part
        was, `timing` says in which session each was recorded. Raises RecordingError if an answer is not
        whole: then nothing must be written.
        """
        if problem := self._problem():
            raise RecordingError(f"{problem} Nothing was recorded; run it again.")
        calls = sorted((*self._answered, *self._lost, *self._abandoned), key=_started)
        calls = [call for call in calls if not _is_retried(call, calls)]
        earlier = [session_of(call.answer or {}) for call in calls if _is_replayed(call)]
        if earlier:
            return [_of_session(call, max(earlier) + 1) for call in calls]
        return [_timed(call, calls[0].started) for call in calls]

    @property
    def unanswered(self) -> list[str]:
        """Sentences about model calls without a whole answer.

        Not those that were asked again and answered, or that the agent gave up.
        """
        cut = [call for call in self._given_up if call.sent.request is not None and call.how is None]
        return [f"{self._name}: the answer to {call.sent} did not end." for call in cut]

    @property
    def _answered(self) -> list[Call]:
        return [call for call in self._calls if call.answer is not None]

    @property
    def _given_up(self) -> list[Call]:
        """Calls without a whole answer; not those that were asked again and answered."""
        whole = {call.sent.identity for call in self._answered}
        return [call for call in self._calls if call.answer is None and call.sent.identity not in whole]

    @property
    def _lost(self) -> list[Call]:
        """Those of `_given_up` that are no model calls: they are recorded as failed."""
        return [call for call in self._given_up if call.sent.request is None]

    @property
    def _abandoned(self) -> list[Call]:
        """Model calls that the agent gave up for good. They are recorded as such."""
        timed_out = [call for call in self._given_up if call.how is Left.TIMED_OUT]
        beside = [call for call in self._calls if call.answer is None and call.how in _BESIDE]
        return [call for call in (*beside, *timed_out) if call.sent.request is not None]

    @property
    def abandoned(self) -> list[str]:
        """Model calls that the agent gave up before their answers came, and how; each once."""
        return list(dict.fromkeys(f"{call.sent} was {call.how}" for call in self._abandoned))

    @property
    def lost(self) -> list[str]:
        """Requests that are no model calls and got no answer; each once."""
        return list(dict.fromkeys(call.sent.place for call in self._lost))

    @property
    def broken(self) -> list[str]:
        """Sentences about model calls whose answer the API ended by an error."""
        asked = [(call.sent, call.sent.request, call.answer) for call in self._answered if call.answered]
        read = [(sent, answer_to(request, answer)) for sent, request, answer in asked if request and answer]
        return [
            f"the answer to {sent} ended in {answer.error} after it had begun"
            for sent, answer in read
            if answer.usage is not None and answer.error
        ]

    @property
    def half_read(self) -> list[str]:
        """Model calls whose answer the agent has not read to its end; each once."""
        return list(dict.fromkeys(str(call.sent) for call in self._answered if not call.is_read))

    @property
    def asked_again(self) -> list[str]:
        """Model calls that were given up and were answered when they were asked again; each once."""
        whole = {call.sent.identity for call in self._answered}
        given_up = [call for call in self._calls if call.answer is None and call.how not in _BESIDE]
        left = [call.sent for call in given_up if call.sent.identity in whole]
        return list(dict.fromkeys(str(sent) for sent in left if sent.request is not None))

    @property
    def failed(self) -> list[str]:
        """Sentences about model calls that failed for good: no try of any of them was billed; each once."""
        return [_failure(*tries[-1]) for tries in self._tries().values() if _all_failed(tries)]

    @property
    def last_failure(self) -> str | None:
        """How the last model call failed, in a sentence; None if one of its tries was answered whole."""
        *_, last = [None, *self._tries().values()]
        return _failure(*last[-1]) if last and not any(answer.is_whole for _, answer in last) else None

    @property
    def denied(self) -> int | None:
        """The HTTP status of the last model call if its credentials were not accepted, else None."""
        *_, last = [None, *self._tries().values()]
        status = last[-1][1].status if last else None
        return status if status in _DENIED else None

    def _tries(self) -> dict[tuple[object, ...], list[tuple[Sent, Answer]]]:
        """Return the answered tries of each model call, by `Sent.identity`.

        The call that was tried last comes last. Calls that the agent gave up are left out.
        """
        tries: dict[tuple[object, ...], list[tuple[Sent, Answer]]] = {}
        for call in self._calls:
            if call.sent.request and call.sent.costs and call.answer and not how_left(call.answer):
                read = call.sent, answer_to(call.sent.request, call.answer)
                tries[call.sent.identity] = [*tries.pop(call.sent.identity, []), read]
        return tries

    def _problem(self) -> str | None:
        if self._unreadable:
            return self._unreadable[0]
        if unanswered := self.unanswered:
            return unanswered[0]
        for exchange in self.exchanges:
            answer = exchange.answer
            if answer.billed and answer.message is not None and answer.usage is None:
                model = exchange.request.prompt.model
                return f"{self._name}: an answer of {model} is not whole: {answer.error}."
        return None


def _all_failed(tries: Iterable[tuple[Sent, Answer]]) -> bool:
    return all(answer.usage is None for _, answer in tries)


def _failure(sent: Sent, answer: Answer) -> str:
    return f"{sent} was answered with {answer.status} ({answer.error})"


_BESIDE = frozenset({Left.CANCELLED, Left.OUTLIVED})
"""How calls are given up that nobody tried again: one that asks the same was sent beside them."""
_TRANSIENT = frozenset({429, 529})
"""Statuses of a busy server, which say nothing about the agent."""


def _is_retried(call: Call, calls: Iterable[Call]) -> bool:
    """Return whether a model call was turned away, and an SDK got an answer when it asked again.

    The SDKs count their retries in a header. An agent that asks again without it may do so whatever the
    answer was, so its failed call is kept.
    """
    if call.answer is None or status(call.answer) not in _TRANSIENT or not call.sent.costs:
        return False
    return any(
        other.sent.identity == call.sent.identity
        and other.started > call.started
        and other.answer is not None
        and status(other.answer) == 200
        and lower(other.sent.raw.get("headers")).get("x-stainless-retry-count", "0") != "0"
        for other in calls
    )


def _started(call: Call) -> float:
    return call.started


_PLACEHOLDERS = 3
"""How many placeholders a scenario gets at most."""


def _is_forced(prompt: Prompt) -> bool:
    """Return whether a request must be answered by a tool or by a schema, so that a text is no answer."""
    choice, output = (as_mapping(prompt.options.get(name)) for name in ("tool_choice", "output_config"))
    schema = prompt.options.get("output_format") or output.get("format")
    return choice.get("type") in ("any", "tool") or schema is not None


def _placeholder(request: Request) -> dict[str, Any]:
    """Return an answer in vcr's shape that ends the turn and says nothing."""
    message = {
        "id": "msg_placeholder",
        "type": "message",
        "role": "assistant",
        "model": request.prompt.model,
        "content": [{"type": "text", "text": PLACEHOLDER}],
        "stop_reason": "end_turn",
        "stop_sequence": None,
        "usage": {"input_tokens": 0, "output_tokens": 0},
    }
    answer = _empty(200, "OK")
    return answer | {"body": {"string": json.dumps(message).encode()}}


_DENIED = (401, 403)
_REFUSED = 403
"""The status as which a failed call replays: exporters of telemetry and SDKs do not try again."""


def _empty(code: int, reason: str) -> dict[str, Any]:
    """Return an answer in vcr's shape without content."""
    headers = {"content-type": ["application/json"], "x-should-retry": ["false"]}
    return {"status": {"code": code, "message": reason}, "headers": headers, "body": {"string": b"{}"}}


def _interaction(call: Call) -> Interaction:
    """Return a call as an interaction, without the timing of an earlier recording."""
    answer = call.answer or (
        left_answer(call.how, call.ended - call.started)
        if call.how
        else _empty(_REFUSED, "failed when it was recorded")
    )
    return dict(call.request), {key: value for key, value in answer.items() if key != "timing"}


def _is_replayed(call: Call) -> bool:
    """Return whether a call was answered by the earlier recording."""
    return call.answered is None and call.answer is not None


def _of_session(call: Call, newest: int) -> Interaction:
    """Return a call as an interaction, with the session that it was recorded in.

    A call that was really made has session `newest`.
    """
    request, answer = _interaction(call)
    session = session_of(call.answer or {}) if _is_replayed(call) else newest
    return request, answer | ({"timing": {"session": session}} if session else {})


def _timed(call: Call, began: float) -> Interaction:
    """Return a call as an interaction, with its times in whole milliseconds since `began`, the first call."""
    request, answer = _interaction(call)
    timing = {"started": round(1000 * (call.started - began))}
    streamed = call.sent.request is not None and call.sent.request.prompt.stream
    if (answered := call.began if streamed else call.answered) is not None:
        timing["answered"] = round(1000 * (answered - began))
    return request, answer | {"timing": timing}


FORKED = (
    "a process that the test has forked asks a model, and nobody can see there what it asks. "
    'Start it anew (as a command, or with the start method "spawn"), with the environment of '
    "token_budget_proxy."
)


class Forks:
    """Notice that a fork of the process that made this has asked for something.

    The processes share one byte, by which a fork tells it.
    """

    def __init__(self) -> None:
        self._process = os.getpid()
        self._told = mmap.mmap(-1, 1)

    @property
    def inside(self) -> bool:
        """Whether the current process is a fork."""
        return os.getpid() != self._process

    def tell(self) -> None:
        """Tell the first process that this fork asks for something."""
        self._told[0] = 1

    def told(self) -> bool:
        """Return whether a fork has asked for something since this was last called."""
        told = bool(self._told[0])
        self._told[0] = 0
        return told


_LENGTH_AND_CODING = ("content-encoding", "content-length", "transfer-encoding")


class Answers:
    """Serve the recorded answers of one cassette in one run."""

    def __init__(self, *, untouched: bool) -> None:
        """Serve answers as vcr does if `untouched`, else as `served` does."""
        self._serve = _untouched if untouched else served
        self._names: dict[str, Mapping[str, str | None]] = {}  # by batch id

    def name(self, created: Mapping[str, Any], names: Mapping[str, str | None]) -> None:
        """Learn, from the answer that created a batch, which names its entries have now.

        `names` holds them by the recorded `custom_id`; None is an entry that is not asked.
        """
        batch = parse_body(answer_body(created)) or {}
        self._names[str(batch.get("id"))] = names

    def serve(self, answer: Mapping[str, Any], sent: Sent) -> dict[str, Any]:
        """Return a copy of a recorded answer for `sent`. Raises CassetteError as `served` does."""
        names: Mapping[str, str | None] = {}
        if sent.request is not None and sent.request.endpoint.api == "batch_results":
            names = self._names.get(str(sent.request.endpoint.batch_id), {})
        if not names:
            return self._serve(answer, sent)
        results = served(answer, sent)
        lines = results["body"]["string"].split(b"\n")
        asked = [line for line in (_renamed(line, names) for line in lines) if line is not None]
        if asked == lines:
            return self._serve(answer, sent)
        return results | {"body": {"string": b"\n".join(asked)}}


def served(answer: Mapping[str, Any], sent: Sent) -> dict[str, Any]:
    """Return a copy of a recorded answer, in the framing that `sent` asks for.

    A failed attempt asks to be retried after a millisecond, whatever the server asked for. Raises
    CassetteError if the body cannot be decoded, or has no form that `sent` can read.
    """
    headers, body = lower(answer.get("headers")), answer_body(answer)
    changes: dict[str, str | None] = {}
    if sent.request is not None and sent.request.endpoint.api == "messages":
        changes, body = transcode(headers, body, sent.request)
    answer = plain(answer, body)
    if status(answer) >= 400:
        changes |= {"retry-after": None, "retry-after-ms": "1"}
    answer["headers"] = _with(answer["headers"], changes)
    return answer


def _untouched(answer: Mapping[str, Any], sent: Sent) -> dict[str, Any]:
    """Return a copy of a recorded answer as vcr serves it, unless `sent` can only read another framing.

    Raises CassetteError for an answer to a model call whose compression no module here can undo: the client
    cannot either, and would only say that it is no JSON.
    """
    if sent.request is None or sent.request.endpoint.api != "messages":
        return dict(answer)
    headers, body = lower(answer.get("headers")), answer_body(answer)
    decode_body(headers, body)
    with contextlib.suppress(CassetteError):  # then it is served as it is, and the client reports it
        if transcode(headers, body, sent.request)[0]:
            return served(answer, sent)
    return dict(answer)


def plain(answer: Mapping[str, Any], body: bytes | None = None) -> dict[str, Any]:
    """Return a decompressed copy of an answer in vcr's shape. Raises CassetteError if it cannot."""
    body = answer_body(answer) if body is None else body
    body = decode_body(lower(answer.get("headers")), body)
    headers = _with(answer.get("headers") or {}, dict.fromkeys(_LENGTH_AND_CODING))
    rest = {
        key: value
        for key, value in answer.items()
        if key not in ("headers", "body", "content", "status_code")
    }
    code = {"code": status(answer), "message": (answer.get("status") or {}).get("message")}
    return {**rest, "status": code, "headers": headers, "body": {"string": body}}


def _renamed(line: bytes, names: Mapping[str, str | None]) -> bytes | None:
    """Return a line of batch results with the name that its entry has now; None if that is not asked.

    Other lines stay, and so does one with the name that it had.
    """
    try:
        entry = json.loads(line)
        was = str(entry["custom_id"])
    except (ValueError, LookupError, TypeError):
        return line
    name = names.get(was, was)
    if name is None or name == was:
        return None if name is None else line
    return json.dumps({**entry, "custom_id": name}, ensure_ascii=False, separators=(",", ":")).encode()


def _with(headers: Mapping[str, Any], changes: Mapping[str, str | None]) -> dict[str, list[Any]]:
    """Return a copy of headers with some set, and some (None) removed, whatever their case."""
    kept = {
        name: list(values) if isinstance(values, (list, tuple)) else [values]
        for name, values in headers.items()
        if name.lower() not in changes
    }
    return kept | {name: [value] for name, value in changes.items() if value is not None}


class Outside(Ledger):
    """The ledger while nothing is metered.

    Model calls may be refused, and requests that hold only a stand-in for a key are. All else is really sent.
    """

    def __init__(
        self,
        tell: Callable[[str], None],
        ignored_hosts: frozenset[str],
        refusal: Callable[[Sent], str | None] = lambda _: None,
    ) -> None:
        """Keep `tell`, which is given every refusal, for code that swallows the error.

        `refusal` returns why a model call is refused, or None if it may be made.
        """
        rules = Rules(outside=True, ignored_hosts=ignored_hosts)
        super().__init__("outside of scenarios", "", rules=rules)
        self._tell = tell
        self._refusal = refusal

    def find(self, sent: Sent, playable: Playable | None = None) -> Found | None:
        """Return None if the request is to be really sent. Raises ReplayMiss if it must not be."""
        if sent.costs and (refusal := self._refusal(sent)):
            self._tell(refusal)
            raise ReplayMiss(refusal)
        return super().find(sent, playable)

    def doubt(self, problem: str) -> None:
        """Give a refusal to `tell`."""
        self._tell(problem)


class Ledgers:
    """The stack of ledgers, of which the top one answers.

    It is one for the process, so that threads and tasks find it.
    """

    def __init__(self) -> None:
        self._stack: list[Ledger] = []

    @property
    def top(self) -> Ledger:
        """The ledger that answers now."""
        return self._stack[-1]

    @contextlib.contextmanager
    def using(self, ledger: Ledger) -> Iterator[Ledger]:
        """Put a ledger on top while the context lasts. A call that began under it is finished under it."""
        self._stack.append(ledger)
        try:
            yield ledger
        finally:
            self._stack.remove(ledger)
            ledger.over.set()
