"""The account of one cassette in one run: answers requests, keeps real calls, remembers what went wrong."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from pytest_tokenbudget.errors import CassetteError, RecordingError, ReplayMiss, TokenBudgetError
from pytest_tokenbudget.model import Paired
from pytest_tokenbudget.replay.account import Account, Accounts
from pytest_tokenbudget.replay.calls import Call, Calls
from pytest_tokenbudget.replay.forks import FORKED, Forks
from pytest_tokenbudget.replay.message_threads import MessageThreads, may_be_of_a_thread
from pytest_tokenbudget.replay.packing import Interaction
from pytest_tokenbudget.replay.pairing import Recording
from pytest_tokenbudget.replay.recorded import Match, is_free
from pytest_tokenbudget.replay.rules import Found, Playable, Rules
from pytest_tokenbudget.replay.sent import Sent
from pytest_tokenbudget.replay.serving import Answers
from pytest_tokenbudget.replay.traffic import Traffic, answer_to
from pytest_tokenbudget.wire.exchange import Exchange, Request


class Ledger:
    """One cassette while a test, or a fixture of wider scope, runs. Thread-safe.

    Requests and answers have vcr's shape, as in `packing.Interaction`; nothing here knows vcr, so that the
    proxy for other processes keeps the same account.
    """

    def __init__(
        self, name: str, command: str, interactions: Sequence[Interaction] = (), rules: Rules | None = None
    ) -> None:
        """Of `name`, a test or fixture; `command` records what is missing. Raises CassetteError."""
        self.name = name
        self.rules = rules or Rules()
        self.problems: list[str] = []
        """What keeps this run from being judged, beside what `recording` knows."""
        self.warnings: list[str] = []
        """What is not metered, or may be off."""
        self.threads: set[threading.Thread] = set()
        """In which something was asked."""
        self.closed = False
        """Whether the cassette was closed again."""
        self.shared = False
        """Whether several tests ask it, so that what nobody asked for says nothing."""
        self._command = command
        self._asker = self.rules.asker or (lambda: name)
        self._traffic = Traffic(interactions)
        self.read = self._traffic.reader.read
        """Reads a request in vcr's shape."""
        self.recording = Recording(self._traffic.exchanges, repeats=self.rules.repeats)
        self._accounts = Accounts(self.recording, name)
        self._carriers = dict(zip(map(id, self._traffic.exchanges), self._traffic.carriers, strict=True))
        self._calls = Calls(name)
        self._forks = Forks()
        self._lock = threading.Lock()
        self._threads = MessageThreads()  # of this run
        self._played: set[int] = set()
        self._answers = Answers(untouched=self.rules.untouched)

    @property
    def calls(self) -> tuple[Exchange, ...]:
        """What was really called, in the order of the calls."""
        return self._calls.exchanges

    def called(self, asker: str) -> Calls:
        """What one test or fixture really called."""
        return self._calls.by(asker)

    def interactions(self) -> list[Interaction]:
        """What a new recording of this run holds, in the order of the requests; redact it, then write it.

        Raises RecordingError where an answer is not whole.
        """
        return self._calls.interactions()

    def account(self, asker: str) -> Account:
        """Of one test or fixture."""
        if self._forks.told():
            self._accounts.refused(asker, f"{self.name}: {FORKED}")
        return self._accounts.of(asker, shared=self.shared)

    def find(self, sent: Sent, playable: Playable | None = None) -> Found | None:
        """The recorded answer; None where the request is to be really called: then `begin` and `finish`.

        `playable` is what may answer it; None: anything. Raises ReplayMiss where it may not be called.
        """
        if sent.request and self._forks.inside and not self.rules.untouched:
            self._forks.tell()
            raise RecordingError(f"{self.name}: {FORKED}")  # no miss: a pool would wait for ever
        self.threads.add(threading.current_thread())
        self.notice(sent)
        sent = self._in_full(self._as_recorded(sent))
        with self._lock:
            left = self._left(playable) if playable else None
            number = None if playable and playable.refusal else self._number(sent, left)
            if number is not None:
                self._played.add(number)
        if number is None:
            self._allow_call(sent, playable.refusal if playable else "", required=bool(left))
            return None
        answer = self._answer(number, sent)
        self._calls.replayed(sent, self._traffic.interactions[number])
        return Found(number, answer)

    def begin(self, sent: Sent) -> Call:
        """A real call sets out."""
        return self._calls.begin(sent, self._asker(), keep=not self.rules.passes_by(sent))

    def finish(self, call: Call, answer: Mapping[str, Any]) -> None:
        """Its whole answer is there."""
        self._calls.finish(call, answer)
        if call.sent.request and call.answer is not None and may_be_of_a_thread(call.sent.body):
            self._threads.keep(call.sent.body, answer_to(call.sent.request, call.answer).message)
        if self.rules.after_call and call.sent.request and call.sent.costs and call.answer is not None:
            self.rules.after_call(call.sent.request, call.answer)

    def notice(self, sent: Sent) -> None:
        """Warn of a request whose tokens are in no answer."""
        if reason := sent.unmetered:
            self.warn(reason)

    def warn(self, what: str) -> None:
        """Once."""
        if what not in self.warnings:
            self.warnings.append(what)

    def doubt(self, problem: str) -> None:
        """Keep what makes it impossible to judge this run."""
        if problem not in self.problems:
            self.problems.append(problem)
            self._accounts.refused(self._asker(), problem)

    def refuse(self, problem: str) -> NoReturn:
        """Keep a problem, and raise it past the agent."""
        self.doubt(problem)
        raise ReplayMiss(problem)

    # --- finding ------------------------------------------------------------------------------------------

    def _left(self, playable: Playable) -> frozenset[int]:
        """What no other thread has played meanwhile."""
        return playable.numbers if self.rules.repeats else playable.numbers - self._played

    def _number(self, sent: Sent, left: frozenset[int] | None) -> int | None:
        """Of the interaction that answers a request: one of those `left`, None: any."""
        if sent.request is None or sent.is_about_a_batch:
            return self._next(sent, left)
        if sent.request.endpoint.api == "batch_create":
            return self._created(sent, sent.request, left)
        match = self._choose(sent.request, left)
        if match is None:
            return None
        if is_free(sent.request) and match.how is not Paired.EXACT:
            self.warn("count_tokens answered with the number of the recorded request, which was another")
        self._threads.keep(sent.body, self.recording.exchanges[match.index].answer.message)
        return self._carrier(match)

    def _as_recorded(self, sent: Sent) -> Sent:
        """Without secrets, where the recording is without them; else any that a prompt holds are a change."""
        if self.rules.redact is None or not self._traffic.hides_text:
            return sent
        return self.read(self.rules.redact(sent.raw), sent.url)

    def _in_full(self, sent: Sent) -> Sent:
        whole = sent.in_full(self._threads)
        if whole is None:
            self.warn("a request continues a message thread that began elsewhere, and whose text is unknown")
        return whole or sent

    def _carrier(self, match: Match) -> int:
        """Of the interaction that holds an exchange; one that was repeated is the same object."""
        return self._carriers[id(self.recording.exchanges[match.index])]

    def _choose(self, request: Request, left: frozenset[int] | None) -> Match | None:
        if self.rules.exact:
            match = self.recording.choose_exact(request)
        else:
            required = bool(left) or not self.rules.calls
            match = self.recording.choose(request, required=required, among=self._exchanges(left))
            if match is None and required:
                self._accounts.missed(self._asker())
        if match is not None:
            self._accounts.asked(match.index, self._asker())
        return match

    def _exchanges(self, left: frozenset[int] | None) -> frozenset[int] | None:
        """Whose answers are in these interactions."""
        every = enumerate(self.recording.exchanges)
        return left and frozenset(index for index, one in every if self._carriers[id(one)] in left)

    def _created(self, sent: Sent, request: Request, left: frozenset[int] | None) -> int | None:
        """The creation of the batch that holds the answers to all entries of this one."""
        number = self._next(sent, left)  # an attempt that failed
        if number is not None:
            return number
        if self.rules.exact and not self._unplayed(self._traffic.batches.get(request.digest, ())):
            return None
        matches = [self._choose(entry, left) for entry in sent.entries]
        found = {self._carrier(match) if match else None for match in matches}
        if len(found) != 1 or (number := found.pop()) is None:
            return None
        recorded = [self.recording.exchanges[match.index].request for match in matches if match]
        self._answers.name(self._traffic.interactions[number][1], recorded, sent.entries)
        return number

    def _next(self, sent: Sent, left: frozenset[int] | None) -> int | None:
        """The next answer from the same address; of a batch's state and results the last one for good."""
        numbers = self._traffic.by_address.get(sent.address, [])
        numbers = [number for number in numbers if left is None or number in left]
        unplayed = self._unplayed(numbers)
        if not unplayed and numbers and (self.rules.repeats or sent.is_about_a_batch):
            return numbers[-1]
        return unplayed[0] if unplayed else None

    def _unplayed(self, numbers: Sequence[int]) -> list[int]:
        return [number for number in numbers if number not in self._played]

    def _answer(self, number: int, sent: Sent) -> dict[str, Any]:
        try:
            return self._answers.serve(self._traffic.interactions[number][1], sent)
        except CassetteError as error:
            self.refuse(f"{self.name}: {error} It answers {sent}.")

    # --- refusing -----------------------------------------------------------------------------------------

    def _allow_call(self, sent: Sent, refusal: str, *, required: bool) -> None:
        """Return where a request may be really sent, not where vcr has an answer; else raise."""
        if self.rules.calls and not required:
            if self.rules.before_call and sent.request and sent.costs:
                try:
                    for request in sent.entries or (sent.request,):
                        self.rules.before_call(request)
                except TokenBudgetError as error:
                    self.refuse(f"{self.name}: {error}")
            return
        if self.rules.passes_by(sent):
            return
        missing, record = f"{self.name}: the recording has no answer to {sent}", f"Record it: {self._command}"
        if refusal:
            self.refuse(f"{missing}: {refusal} {record}")
        if sent.request is None or sent.is_about_a_batch:
            self.refuse(f"{missing}, and nothing reaches the network in replay. {record}")
        more = "The agent asks for more than was recorded, or for the same again."
        raise ReplayMiss(f"{missing}. {more} {record}")  # the recording keeps the miss
