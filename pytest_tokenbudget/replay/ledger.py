"""The account of one cassette in one run: answers requests, keeps real calls, remembers what went wrong."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from pytest_tokenbudget.errors import CassetteError, ReplayMiss, TokenBudgetError
from pytest_tokenbudget.model import Paired
from pytest_tokenbudget.replay.account import Account, Accounts
from pytest_tokenbudget.replay.calls import Call, Calls
from pytest_tokenbudget.replay.message_threads import MessageThreads, may_be_of_a_thread
from pytest_tokenbudget.replay.packing import Interaction
from pytest_tokenbudget.replay.pairing import Recording
from pytest_tokenbudget.replay.recorded import Match, is_free
from pytest_tokenbudget.replay.rules import Rules
from pytest_tokenbudget.replay.serving import served, with_custom_ids
from pytest_tokenbudget.replay.traffic import Sent, Traffic, answer_body, answer_to
from pytest_tokenbudget.wire.endpoints import unmetered_reason
from pytest_tokenbudget.wire.exchange import Exchange, Request
from pytest_tokenbudget.wire.request import parse_body

_LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1", "0.0.0.0"})  # noqa: S104  # compared, never bound


@dataclass(frozen=True, slots=True)
class Found:
    """What a recording answers a request with."""

    number: int
    """Of the recorded interaction, from 0."""
    answer: dict[str, Any]
    """In vcr's shape; the caller's own."""


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
        self._traffic = Traffic(interactions)
        self.recording = Recording(self._traffic.exchanges, repeats=self.rules.repeats)
        self._accounts = Accounts(self.recording, name)
        self._carriers = dict(zip(map(id, self._traffic.exchanges), self._traffic.carriers, strict=True))
        self._calls = Calls(name)
        self._lock = threading.Lock()
        self._threads = MessageThreads()  # of this run
        self._played: set[int] = set()
        self._names: dict[str, dict[str, str]] = {}  # of a batch's entries, by its id: recorded -> now

    @property
    def calls(self) -> tuple[Exchange, ...]:
        """What was really called, in the order of the calls."""
        return self._calls.exchanges

    @property
    def unanswered(self) -> list[str]:
        """Real calls whose answers did not end, in sentences: nobody knows what they cost."""
        return self._calls.unanswered

    def interactions(self) -> list[Interaction]:
        """What a new recording of this run holds, in the order of the requests; redact it, then write it.

        Raises RecordingError where an answer is not whole.
        """
        return self._calls.interactions()

    def account(self, asker: str) -> Account:
        """Of one test or fixture."""
        return self._accounts.of(asker, shared=self.shared)

    def find(self, sent: Sent) -> Found | None:
        """The recorded answer; None where the request is to be really called: then `begin` and `finish`.

        Raises ReplayMiss where it may not be.
        """
        self.threads.add(threading.current_thread())
        self._warn(sent)
        sent = self._in_full(self._as_recorded(sent))
        with self._lock:
            number = self._number(sent)
            if number is not None:
                self._played.add(number)
        if number is None:
            self._allow_call(sent)
            return None
        answer = self._answer(number, sent)
        self._calls.replayed(sent, self._traffic.interactions[number])
        return Found(number, answer)

    def begin(self, sent: Sent) -> Call:
        """A real call sets out."""
        return self._calls.begin(sent, keep=not self._passes_by(sent))

    def finish(self, call: Call, answer: Mapping[str, Any]) -> None:
        """Its whole answer is there."""
        self._calls.finish(call, answer)
        if call.sent.request and call.answer is not None and may_be_of_a_thread(call.sent.body):
            self._threads.keep(call.sent.body, answer_to(call.sent.request, call.answer).message)
        if self.rules.after_call and call.sent.request and call.sent.costs and call.answer is not None:
            self.rules.after_call(call.sent.request, call.answer)

    def refuse(self, problem: str) -> NoReturn:
        """Keep a problem, and raise it past the agent."""
        self.problems.append(problem)
        self._accounts.refused(self._asker(), problem)
        raise ReplayMiss(problem)

    # --- finding ------------------------------------------------------------------------------------------

    def _number(self, sent: Sent) -> int | None:
        """Of the interaction that answers a request."""
        if sent.request is None or sent.is_about_a_batch:
            return self._next(sent)
        if sent.request.endpoint.api == "batch_create":
            return self._created(sent, sent.request)
        match = self._choose(sent.request)
        if match is None:
            return None
        if is_free(sent.request) and match.how is not Paired.EXACT:
            self._warn_of("count_tokens answered with the number of the recorded request, which was another")
        self._threads.keep(sent.body, self.recording.exchanges[match.index].answer.message)
        return self._carrier(match)

    def _as_recorded(self, sent: Sent) -> Sent:
        """Without secrets, where the recording is without them; else any that a prompt holds are a change."""
        if self.rules.redact is None or not self._traffic.hides_text:
            return sent
        return Sent.of(self.rules.redact(sent.raw), sent.url)

    def _in_full(self, sent: Sent) -> Sent:
        whole = sent.in_full(self._threads)
        if whole is None:
            self._warn_of(
                "a request continues a message thread that began elsewhere, and whose text is unknown"
            )
        return whole or sent

    def _carrier(self, match: Match) -> int:
        """Of the interaction that holds an exchange; one that was repeated is the same object."""
        return self._carriers[id(self.recording.exchanges[match.index])]

    def _choose(self, request: Request) -> Match | None:
        if self.rules.exact:
            match = self.recording.choose_exact(request)
        else:
            match = self.recording.choose(request, required=not self.rules.calls)
            if match is None and not self.rules.calls:
                self._accounts.missed(self._asker())
        if match is not None:
            self._accounts.asked(match.index, self._asker())
        return match

    def _asker(self) -> str:
        return self.rules.asker() if self.rules.asker else self.name

    def _created(self, sent: Sent, request: Request) -> int | None:
        """The creation of the batch that holds the answers to all entries of this one."""
        number = self._next(sent)  # an attempt that failed
        if number is not None:
            return number
        if self.rules.exact and not self._unplayed(self._traffic.batches.get(request.digest, ())):
            return None
        matches = [self._choose(entry) for entry in sent.entries]
        found = {self._carrier(match) if match else None for match in matches}
        if len(found) != 1 or (number := found.pop()) is None:
            return None
        created = parse_body(answer_body(self._traffic.interactions[number][1])) or {}
        self._names[str(created.get("id"))] = {
            str(self.recording.exchanges[match.index].request.custom_id): str(entry.custom_id)
            for match, entry in zip(matches, sent.entries, strict=True)
            if match
        }
        return number

    def _next(self, sent: Sent) -> int | None:
        """The next answer from the same address; of a batch's state and results the last one for good."""
        numbers = self._traffic.by_address.get(sent.address, [])
        unplayed = self._unplayed(numbers)
        if not unplayed and numbers and (self.rules.repeats or sent.is_about_a_batch):
            return numbers[-1]
        return unplayed[0] if unplayed else None

    def _unplayed(self, numbers: Sequence[int]) -> list[int]:
        return [number for number in numbers if number not in self._played]

    def _answer(self, number: int, sent: Sent) -> dict[str, Any]:
        try:
            answer = served(self._traffic.interactions[number][1], sent)
        except CassetteError as error:
            self.refuse(f"{self.name}: {error} It answers {sent}.")
        if sent.request is not None and sent.request.endpoint.api == "batch_results":
            names = self._names.get(str(sent.request.endpoint.batch_id), {})
            answer["body"]["string"] = with_custom_ids(answer["body"]["string"], names)
        return answer

    # --- refusing -----------------------------------------------------------------------------------------

    def _allow_call(self, sent: Sent) -> None:
        """Return where a request may be really sent; else raise."""
        if self.rules.calls:
            if self.rules.before_call and sent.request and sent.costs:
                try:
                    for request in sent.entries or (sent.request,):
                        self.rules.before_call(request)
                except TokenBudgetError as error:
                    self.refuse(f"{self.name}: {error}")
            return
        if self._passes_by(sent):
            return
        missing = f"{self.name}: the recording has no answer to {sent}"
        if sent.request is None or sent.is_about_a_batch:
            self.refuse(f"{missing}, and nothing reaches the network in replay. Record it: {self._command}")
        raise ReplayMiss(  # the recording keeps the miss
            f"{missing}. The agent asks for more than was recorded, or for the same again. "
            f"Record it: {self._command}"
        )

    def _passes_by(self, sent: Sent) -> bool:
        """Whether a request is neither recorded nor refused: it goes to a server of the test itself."""
        return sent.request is None and (sent.host in _LOOPBACK or sent.host in self.rules.free_hosts)

    def _warn(self, sent: Sent) -> None:
        if sent.request is None and (reason := unmetered_reason(sent.method, sent.url)):
            self._warn_of(reason)

    def _warn_of(self, what: str) -> None:
        if what not in self.warnings:
            self.warnings.append(what)
