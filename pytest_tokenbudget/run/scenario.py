"""A scenario while it runs: its cassette, the account of what it asks, and what that comes to."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shlex
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Literal

from pytest_tokenbudget.diagnosis.turns import asking
from pytest_tokenbudget.errors import CassetteError, RecordingError, TokenBudgetError
from pytest_tokenbudget.metering.meter import Meter, Run, is_turn
from pytest_tokenbudget.model import Paired, ScenarioId
from pytest_tokenbudget.replay.cassette_file import Interaction, read_cassette, write_cassette
from pytest_tokenbudget.replay.credentials import standing_in
from pytest_tokenbudget.replay.network import NetworkGuard
from pytest_tokenbudget.replay.playback import AcceptedIn, CallLimits, Ledger, Rules, TokenCount
from pytest_tokenbudget.replay.proxy import ChildProxy
from pytest_tokenbudget.replay.redaction import Redactor, redact, secrets_of
from pytest_tokenbudget.replay.traffic import Traffic, settled
from pytest_tokenbudget.reports.build import Place
from pytest_tokenbudget.reports.document import FormerlyEntry
from pytest_tokenbudget.run.accepting import replayed
from pytest_tokenbudget.run.allowance import Allowance
from pytest_tokenbudget.settings import MARKER, Options, RecordMode, ScenarioSettings, Settings
from pytest_tokenbudget.wire.exchange import Exchange, Pair
from pytest_tokenbudget.wire.prompt import Prompt
from pytest_tokenbudget.wording import plural

_FORBIDDEN = "<>?%*:|\"'/\\"
_LONGEST_NAME = 255
"""Bytes of a file name on the common file systems."""


def cassette_path(test_file: Path, test: str, test_class: str | None = None) -> Path:
    """Return where a test's cassette is: where pytest-recording puts it, so that a suite can use either."""
    name = f"{test_class}.{test}" if test_class else test
    return test_file.parent / "cassettes" / test_file.stem / _file_name(name)


def teardown_path(cassette: Path) -> Path:
    """Return where the cassette of a test's teardown is: beside the test's own."""
    return cassette.with_name(_file_name(f"{cassette.stem}.teardown"))


def _file_name(name: str) -> str:
    for character in _FORBIDDEN:
        name = name.replace(character, "-")
    encoded = name.encode()
    if len(encoded) + len(".yaml") > _LONGEST_NAME:
        rest = f"...{hashlib.md5(encoded, usedforsecurity=False).hexdigest()}"
        cut = encoded[: _LONGEST_NAME - len(".yaml") - len(rest)]
        name = cut.decode(errors="ignore") + rest  # a letter of several bytes may be cut through
    return f"{name}.yaml"


Kind = Literal["test", "teardown", "fixture", "wider fixture"]


@dataclass(slots=True)
class Scenario:
    """One test, the teardown of a test, or a fixture. Its ledgers fill while it runs."""

    place: Place
    settings: ScenarioSettings
    suite: Settings = field(default_factory=Settings)
    """The settings of its folder."""
    cassette: Path | None = None
    """Its own cassette; None if only cassettes that the user's code opens are metered."""
    kind: Kind = "test"
    unmarked: Path | None = None
    """Where the cassette of a test without a marker would be; None for one with a marker."""
    own: Ledger | None = None
    adopted: list[Ledger] = field(default_factory=list)
    """The ledgers of cassettes that the user's code opened."""
    refusals: list[str] = field(default_factory=list)
    """Connections that went past the HTTP libraries."""
    unmetered: list[str] = field(default_factory=list)
    """Why model calls that nothing meters were refused."""
    proxies: list[ChildProxy] = field(default_factory=list)
    """Through which agents in other processes ask."""
    allowance: Allowance | None = None
    """The real calls that it may make; None before it is entered."""
    renamed: FormerlyEntry | None = None
    """What stands under the scenario's old name, and what to do about it; else None."""
    written: Sequence[Interaction] | None = None
    """Its new recording, as it was written; None where none was."""
    failed: bool = False
    """Whether it broke off, so that nothing is judged."""
    measured: Run | None = None
    """Its measured run; None before it is measured."""
    outcome: str | None = None
    """Its verdict, or how it ended without one; None where it was not judged."""

    def adopts(self, ledger: Ledger) -> None:
        """Note that the scenario asks a cassette of the user's, of vcrpy unless another recorder is known."""
        if not any(ledger is one for one in self.adopted):
            self.adopted.append(ledger)
        if self.place.recorder is None and self.cassette is None:
            self.place = replace(self.place, recorder="vcrpy")

    @property
    def ledgers(self) -> tuple[Ledger, ...]:
        """All accounts, its own first."""
        return (*([self.own] if self.own else ()), *self.adopted)

    def forget(self) -> None:
        """Drop what was asked and recorded, once the scenario is judged, logged and over.

        Its entry says all that the reports need. Cassettes that stay open serve other tests.
        """
        for ledger in self.ledgers:
            if ledger is self.own or ledger.closed:
                ledger.forget()
        if self.allowance is not None:
            self.allowance.forget()
        self.own = self.measured = self.written = None
        self.adopted, self.proxies = [], []

    @property
    def stop(self) -> str | None:
        """Return why one of its real calls was refused, by a cap or the spend limit; None where none was."""
        return self.allowance.stop if self.allowance else None

    @property
    def not_run(self) -> bool:
        """Whether the spend limit kept it from one of its calls."""
        return self.allowance is not None and self.allowance.is_spent

    @property
    def called(self) -> bool:
        """Whether it has made a real call, answered or not."""
        calls = [ledger.called(self.place.id) for ledger in self.ledgers]
        return any(one.exchanges or one.unanswered for one in calls)

    @property
    def touched(self) -> bool:
        """Whether there is anything to judge: something was asked, or was recorded and is to be asked."""
        refused = bool(self.refusals or self.unmetered or self.stop)
        return refused or self.failed_a_child or any(map(self._asked, self.ledgers)) or self.called

    def _asked(self, ledger: Ledger) -> bool:
        account = ledger.account(self.place.id)
        left = account.unplayed if ledger is self.own else ()
        return bool(account.pairs or account.misses or account.problems or account.edits or left)

    @property
    def asked(self) -> list[Prompt]:
        """The prompts of its turns, as they were asked."""
        return [
            pair.request.prompt
            for ledger in self.ledgers
            for pair in ledger.account(self.place.id).pairs
            if is_turn(Exchange(pair.recorded, pair.answer))
        ]

    @property
    def failed_a_child(self) -> bool:
        """Whether an agent in another process did not get its answer, so that it had to break off."""
        return any(proxy.failures for proxy in self.proxies)

    @property
    def denied(self) -> int | None:
        """Return the status by which the API refused the key of its last real call; None where it did not."""
        statuses = (ledger.called(self.place.id).denied for ledger in self.ledgers)
        return next((status for status in statuses if status is not None), None)

    @property
    def missed(self) -> bool:
        """Whether something was asked that nothing answers, whatever the agent made of it."""
        accounts = [ledger.account(self.place.id) for ledger in self.ledgers]
        refused = any(account.misses or account.problems or account.edits for account in accounts)
        return refused or bool(self.refusals or self.unmetered or self.stop) or self.failed_a_child

    def settle(self) -> None:
        """Wait for the answers to other processes that are on their way; what threads still ask is left."""
        for proxy in self.proxies:
            proxy.wait()
        if self.own is not None:
            self.own.end()

    def open(
        self,
        options: Options,
        limits: CallLimits | None = None,
        redactor: Redactor | None = None,
        *,
        free_hosts: frozenset[str] = frozenset(),
        ignored_hosts: frozenset[str] = frozenset(),
        accepted: AcceptedIn = lambda _: {},
        placeholder: bool = False,
        answered: Callable[[], None] = lambda: None,
        count: TokenCount = lambda *_: None,
    ) -> Ledger:
        """Read the cassette of the scenario and begin its ledger. Raises CassetteError.

        What goes to `free_hosts` is not recorded, and what goes to `ignored_hosts` is not even sent. If
        nothing is called and the run is judged, a `placeholder` answers what the recording does not.
        """
        assert self.cassette is not None
        exists = self.cassette.exists()
        mode = options.record
        if mode == RecordMode.ONCE and exists:
            mode = RecordMode.NONE
        fresh = options.live or mode == RecordMode.ALL
        recorded: Sequence[Interaction] = read_cassette(self.cassette) if exists and not fresh else ()
        rules = Rules(
            calls=options.live or mode != RecordMode.NONE,
            exact=mode == RecordMode.CHANGED,
            free_hosts=free_hosts,
            ignored_hosts=ignored_hosts,
            limits=limits,
            redactor=redactor,
            accepted=accepted,
            placeholder=placeholder and options.judge and not options.calls and exists,
            answered=answered,
            count=count,
        )
        self.own = Ledger(self.place.id, self._command(exists), recorded, rules)
        return self.own

    def _command(self, exists: bool) -> str:
        mode = RecordMode.CHANGED if exists else RecordMode.ONCE
        return f"pytest {shlex.quote(ScenarioId(self.place.id).argument)} --token-budget-record={mode}"

    @contextlib.contextmanager
    def fenced(self) -> Iterator[None]:
        """Close the network, and put placeholders where credentials are missing, for a replay."""
        guard = NetworkGuard(self.place.id, self.suite.allowed_hosts)
        self.refusals = guard.refusals  # which fills while the scenario runs
        with standing_in(), guard:
            yield

    def run(self, meter: Meter, options: Options) -> Run:
        """Measure what the scenario did so far."""
        runs = [self._run(ledger, meter, options) for ledger in self.ledgers]
        problems = tuple(problem for proxy in self.proxies for problem in proxy.problems)
        run = sum(runs, Run(problems=problems, edits=tuple(self.refusals)))
        if run.unplayed and not (run.turns or run.misses or run.problems or run.edits):
            return replace(run, edits=(self.silence,))
        if options.live or not (run.misses or run.problems or run.edits):
            return run
        return replace(run, unrecorded=tuple(self._unrecorded(run)))

    @property
    def silence(self) -> str:
        """Return what is amiss where it asked nothing and is expected to, and what to edit."""
        if self.unmarked and self.unmarked.exists():
            return (
                f"its baseline and its cassette {'/'.join(self.unmarked.parts[-3:])} exist, but its marker "
                f"is gone: put @pytest.mark.{MARKER} back. If it is to be no scenario any more, delete that "
                "cassette, and its entry in the baseline file"
            )
        where = "cassette and its entry" if self.cassette and self.cassette.exists() else "entry"
        return (
            "it has a baseline or a recording, but the agent asked nothing at all. If a cache of its own "
            "answered, switch that off in tests. If it calls no model any more, take its marker off, and "
            f"delete its {where} in the baseline file"
        )

    @property
    def lacking(self) -> Ledger | None:
        """The first of its ledgers that was asked and has no cassette; None where all have one."""
        return next(filter(self._lacks, self.ledgers), None)

    def _lacks(self, ledger: Ledger) -> bool:
        holds, path = ledger.recording.exchanges or ledger.calls, self.cassette_of(ledger)
        return bool(ledger.first and not holds and path and not path.exists())

    def cassette_of(self, ledger: Ledger) -> Path | None:
        """Return the path of the cassette of one of its ledgers; None if it has none."""
        return self.cassette if ledger is self.own else Path.cwd() / ledger.rules.cassette

    def _unrecorded(self, run: Run) -> Iterator[str]:
        """Yield why there is no recording of what was asked and got no answer; nothing if there is one."""
        moved = "where a test was renamed or moved, its cassette and its baseline go with it"
        moved = self.renamed["text"] if self.renamed else moved
        lacking = self.lacking
        if lacking and lacking is not self.own:
            yield f"there is no cassette {lacking.rules.cassette} ({moved})"
            return
        if self.own and self.cassette and not self.cassette.exists():
            path = PurePosixPath(self.place.file).parent.joinpath(*self.cassette.parts[-3:])
            if self.own.rules.calls:
                yield f"there is no cassette {path} beside the test: what was called could not be recorded"
                return
            yield f"there is no cassette {path} beside the test ({moved})"
            return
        holds = any(ledger.recording.exchanges for ledger in self.ledgers)
        if self.own is None and run.misses and not (run.problems or holds):
            yield "the cassette that the test has opened holds nothing"

    def _run(self, ledger: Ledger, meter: Meter, options: Options) -> Run:
        account = ledger.account(self.place.id)
        problems = Run(problems=account.problems, edits=account.edits)
        if ledger is not self.own:
            return self._replayed(ledger, meter) + self._called(ledger, meter, options) + problems
        if options.live or ledger.rules.calls:
            return self._called(ledger, meter, options) + problems
        return self._replayed(ledger, meter) + problems

    def _replayed(self, ledger: Ledger, meter: Meter) -> Run:
        """Measure what was answered from the recording.

        What others asked of the same cassette is measured as well: it may have warmed the prompt cache. A
        cassette of the suite's own may hold what other tests ask, and what comes before a turn may be theirs.
        """
        account, own = ledger.account(self.place.id), ledger is self.own
        changed = tuple(pair for pair in account.reshaped if pair.how is not Paired.EXACT)
        mine = {pair.index for pair in account.pairs}
        run = replayed(
            meter,
            ledger.recording,
            misses=account.misses,
            stood_in=account.stood_in,
            doubtful=account.doubtful,
            unplayed=account.unplayed if own else (),
            reshaped=account.reshaped if own else changed,
            whole=own,
            only=mine,
        )
        return replace(run, leftovers=() if own else account.unplayed)

    def _called(self, ledger: Ledger, meter: Meter, options: Options) -> Run:
        """Measure what was really called: live, or as a new recording has it, each answer to its request."""
        called = ledger.called(self.place.id)
        if options.live:
            return meter.called(called.exchanges) + Run(problems=tuple(called.unanswered))
        try:
            exchanges = Traffic(ledger.interactions()).exchanges if ledger is self.own else called.exchanges
        except TokenBudgetError as error:
            return Run(problems=(str(error),))
        pairs = [Pair(n, e.request, e.request, e.answer, Paired.EXACT) for n, e in enumerate(exchanges)]
        problems = called.unanswered if ledger is not self.own else ()
        return meter.replayed(exchanges, pairs) + Run(problems=tuple(problems))

    @property
    def mismatches(self) -> tuple[str, ...]:
        """What the `match_on` of a cassette refuses to answer, in sentences."""
        told = [told for ledger in self.ledgers for who, told in ledger.mismatches if who == self.place.id]
        return tuple(dict.fromkeys(told))

    @property
    def failed_calls(self) -> Iterator[str]:
        """What a new recording holds of calls that failed for good, in sentences."""
        for ledger in self.ledgers:
            again = " with --token-budget-record=all" if ledger is self.own else ""
            for lost in ledger.called(self.place.id).lost if ledger is self.own else ():
                yield f"{self.place.id}: {lost} got no answer. It is no model call: it is kept as failed."
            for left in ledger.called(self.place.id).abandoned if ledger is self.own else ():
                yield f"{self.place.id}: {left}. It is recorded so; nobody knows what it was billed."
            for broken in ledger.called(self.place.id).broken:
                yield f"{self.place.id}: {broken}. It is recorded so, and bills what it had told by then."
            for sent in ledger.called(self.place.id).half_read:
                yield (
                    f"{self.place.id}: the agent stopped reading the answer to {sent}. It is recorded, and "
                    "counts, whole: the API may bill less where a client hangs up."
                )
            for sent in ledger.called(self.place.id).asked_again:
                yield (
                    f"{self.place.id}: {sent} was given up, and asked again. The recording holds the answer "
                    "alone: nobody knows what the first call was billed."
                )
            for failed in ledger.called(self.place.id).failed:
                yield (
                    f"{self.place.id}: {failed}, and not asked again until it succeeded. The recording keeps "
                    f"the failure, and replays it. If that is not meant, record the test once more{again}."
                )

    @property
    def now_at_once(self) -> Iterator[str]:
        """Yield that turns are asked for at once that were recorded one after another, in a sentence."""
        pairs = self.own.now_at_once if self.own else []
        if pairs:
            asked = asking([exchange.request for exchange in pairs[0]])
            more = f" (and {plural(len(pairs) - 1, 'more pair')})" if len(pairs) > 1 else ""
            test = shlex.quote(ScenarioId(self.place.id).argument)
            yield (
                f"{self.place.id}: turns that were recorded one after the other are asked for at once now: "
                f"{asked}{more}. Calls at once cannot read what the others write to the cache, which replay "
                f"does not measure. Record it anew to know: pytest {test} --token-budget-record=all"
            )

    def recorded(self, meter: Meter) -> tuple[Run, Run]:
        """Return the turns of its new recording, and what was really called for it, measured."""
        if self.own is None:
            return Run(), Run()
        return meter.called(Traffic(self.own.interactions()).exchanges), meter.called(self.own.calls)

    def save(self, patterns: Sequence[str]) -> Saved | None:
        """Write what was recorded over the cassette, without secrets; return None if there is nothing new.

        What says nothing stays as the cassette had it, and a recording that is equal in all else rewrites
        nothing. `patterns` are the user's own secrets. Raises CassetteError or RecordingError and leaves the
        old one.
        """
        ledger = self.own
        if ledger is None or self.cassette is None or not ledger.rules.calls:
            return None
        if not ledger.calls and not ledger.recording.unplayed:
            return None
        old = self._replayable()
        before = [exchange for exchange in Traffic(old).exchanges if is_turn(exchange)]
        if (failure := ledger.last_failure) and before and before[-1].answer.is_whole:
            raise RecordingError(
                f"{self.place.id}: {failure}, and nothing was called after it. Nothing is recorded, and the "
                "cassette stays as it was. Run it again; if the failure is meant, delete the cassette first."
            )
        interactions = ledger.interactions()
        if not interactions:
            raise RecordingError(
                f"{self.place.id}: {self.silence}. Nothing is recorded, and the cassette stays as it was."
            )
        secrets = secrets_of(os.environ)
        clean = redact(interactions, secrets=secrets, patterns=patterns)
        if old:
            clean = redact(settled(clean, old), secrets=secrets, patterns=patterns)
        self.written = clean
        if clean != old:
            write_cassette(self.cassette, clean)
        return Saved(len(before) if old else None, is_rewritten=clean != old)

    def _replayable(self) -> list[Interaction]:
        """Return what its cassette holds; empty if there is none that can be replayed."""
        assert self.cassette is not None
        try:
            return read_cassette(self.cassette)
        except (CassetteError, FileNotFoundError):
            return []


@dataclass(frozen=True, slots=True)
class Saved:
    """A recording that was kept."""

    turns_before: int | None
    """Turns of the cassette that was there before; None if there was none."""
    is_rewritten: bool
    """Whether the file changed."""
