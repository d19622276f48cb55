"""Track the active scenario and patch the HTTP clients while it has a cassette.

A thread that a test starts and leaves behind may ask while another test runs; it is known by where it
started.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import shlex
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from weakref import WeakKeyDictionary

from pytest_tokenbudget.metering.pricing import Prices
from pytest_tokenbudget.model import ScenarioId
from pytest_tokenbudget.replay.cassette_file import Interaction
from pytest_tokenbudget.replay.credentials import without_stand_ins
from pytest_tokenbudget.replay.playback import AcceptedIn, Ledger, Ledgers, Outside, Rules, TokenCount
from pytest_tokenbudget.replay.proxy import ChildProxy
from pytest_tokenbudget.replay.redaction import Redactor
from pytest_tokenbudget.replay.traffic import Sent
from pytest_tokenbudget.reports.build import Place
from pytest_tokenbudget.reports.scenario_view import REWRITE
from pytest_tokenbudget.run.allowance import Allowance, Allowances
from pytest_tokenbudget.run.scenario import Scenario
from pytest_tokenbudget.run.spending import Spending
from pytest_tokenbudget.settings import MARKER, Options, RecordMode, Settings


@dataclass(frozen=True, slots=True)
class Asker:
    """A test or another caller that may call a model while no scenario is on."""

    name: str
    """The id of a test, else words."""
    suite: Settings
    node: str = ""
    """The id of a test, or a file; empty if it is neither."""
    is_excluded: bool = False
    is_known: Callable[[], bool] = lambda: False
    """Tells whether the test has a baseline and a cassette, so that its marker was forgotten."""


_NOBODY = Asker("something outside of the tests", Settings())


class Stage:
    """A process-wide stack of scenarios; what is asked belongs to the one on top.

    It does not go by thread or task: an agent's threads and tasks ask in the name of the test that runs.
    """

    def __init__(
        self,
        options: Options,
        prices: Prices,
        root: Path = Path(),
        *,
        ignored_hosts: Sequence[str] = (),
        spending: Spending | None = None,
        redactor: Redactor | None = None,
        accepted: Callable[[Place, Callable[[], bool]], AcceptedIn] = lambda *_: lambda _: {},
        answered: Callable[[], None] = lambda: None,
        count: TokenCount = lambda *_: None,
    ) -> None:
        self._options = options
        self._root = root
        self._asker = _NOBODY
        self._refusals: list[str] = []
        self._is_mocked: Callable[[], bool] = lambda: False
        self.unmetered: Counter[str] = Counter()
        """How many model calls that nothing meters were let pass, by who made them."""
        self._ignored_hosts = frozenset(map(str.lower, ignored_hosts))
        self._prices = prices
        self._spending = spending
        self._accepted = accepted
        self._answered = answered
        self._count = count
        self._redactor = redactor or Redactor(without_stand_ins(os.environ))
        self._allowances = Allowances()
        self._on: list[tuple[Scenario, contextlib.ExitStack]] = []
        self._ledgers = Ledgers()
        self._background = BackgroundThreads()
        self._routed = False
        self._fenced = False

    @property
    def test(self) -> Scenario | None:
        """The test that is on; None if there is none."""
        return next((one for one, _ in reversed(self._on) if one.kind == "test"), None)

    def enter(self, scenario: Scenario, *, fenced: bool = False) -> None:
        """Put a scenario on top; if `fenced` and nothing is to be called, close the network as well.

        Raises CassetteError, and leaves the stage as it was.
        """
        from pytest_tokenbudget.replay import vcr_bridge  # import vcr

        self._note_threads()
        if scenario.allowance is None:
            scenario.allowance = Allowance(scenario.settings.caps, self._prices, self._spending)
            self._allowances.set(scenario.place.id, scenario.allowance)
        with contextlib.ExitStack() as opening:
            opening.enter_context(vcr_bridge.adopt(self._adopted))
            if scenario.cassette is not None:
                ledger = scenario.own or scenario.open(
                    self._options,
                    self._allowances,
                    self._redactor,
                    free_hosts=frozenset(scenario.suite.allowed_hosts),
                    ignored_hosts=frozenset(map(str.lower, scenario.suite.ignored_hosts)),
                    accepted=self._accepted(scenario.place, lambda: False),
                    placeholder=scenario.suite.placeholder,
                    answered=self._answered,
                    count=self._count,
                )
                opening.enter_context(self._ledgers.using(ledger))
                if not self._routed:
                    opening.enter_context(vcr_bridge.route(self._ledgers))
                    opening.enter_context(self._marked("_routed"))
                if fenced and not self._options.calls and not self._fenced:
                    opening.enter_context(scenario.fenced())
                    opening.enter_context(self._marked("_fenced"))
            self._on.append((scenario, opening.pop_all()))
        if self._options.judge:
            vcr_bridge.adopt_open(self._adopted)

    @contextlib.contextmanager
    def outside(self) -> Iterator[None]:
        """Keep stand-ins for a key from being sent while no scenario is on.

        Nothing is done while the user's code has a cassette open: that one answers every request.
        """
        from pytest_tokenbudget.replay import vcr_bridge  # import vcr

        if vcr_bridge.is_taken():
            yield
            return
        pools = vcr_bridge.pools()
        self._is_mocked = lambda: any(vcr_bridge.pools().get(one) is not own for one, own in pools.items())
        with (
            vcr_bridge.route_but_mocks(self._ledgers),
            self._ledgers.using(Outside(self._refused, self._ignored_hosts, self._refusal)),
        ):
            yield

    def ask(self, asker: Asker | None) -> list[str]:
        """Name who asks while no scenario is on (None: unknown); return the list that refusals then go to."""
        self._asker, self._refusals = asker or _NOBODY, []
        return self._refusals

    def _refusal(self, sent: Sent) -> str | None:
        """Return why a model call that nothing meters is refused; None, and count it, if it may be made.

        A plain run refuses nothing, and what a mock answers costs nothing.
        """
        if not (self._options.judge or self._options.calls) or self._is_mocked():
            return None
        on, asker = (self._on[-1][0] if self._on else None), self._asker
        if on is not None:
            node = asker.node if on.kind in ("test", "teardown") else on.place.file
            asker = replace(asker, name=on.place.id, suite=on.suite, node=node, is_excluded=False)
        file, _, test = asker.node.partition("::")
        if asker.is_excluded or asker.suite.allows(sent.host, self._root / file, test):
            self.unmetered[asker.name] += 1
            return None
        refusal = _unmetered(asker, sent, None if on is None else on.kind)
        (self._refusals if on is None else on.unmetered).append(refusal)
        return refusal

    def _refused(self, problem: str) -> None:
        """Keep a refusal for the scenario that is on; in a plain run there may be none."""
        if self._on and problem not in (refusals := self._on[-1][0].refusals):
            refusals.append(problem)

    @contextlib.contextmanager
    def proxy(self, scenario: Scenario) -> Iterator[ChildProxy]:
        """Yield a proxy: what other processes ask of it belongs to the scenario on top, too.

        Raises SettingsError.
        """
        assert scenario.own is not None
        with ChildProxy(lambda: self._ledgers.top, os.environ) as proxy:
            scenario.proxies.append(proxy)
            yield proxy

    def leave(self, scenario: Scenario) -> None:
        """Take a scenario off, wherever it is on the stack; do nothing if it is not on it."""
        for index, (one, opened) in reversed(list(enumerate(self._on))):
            if one is scenario:
                self._note_threads()
                del self._on[index]
                opened.close()
                return

    def close(self) -> None:
        """Take off what is still on: a run can end in the middle of a test."""
        while self._on:
            self.leave(self._on[-1][0])

    @contextlib.contextmanager
    def _marked(self, flag: str) -> Iterator[None]:
        """Set a flag while something process-wide is open, so that it is opened only once."""
        setattr(self, flag, True)
        try:
            yield
        finally:
            setattr(self, flag, False)

    def share(self, scenario: Scenario) -> None:
        """Share with the tests the cassettes that a wider fixture opened and did not close in its setup."""
        for ledger in scenario.adopted:
            ledger.shared = not ledger.closed

    def warnings(self, scenario: Scenario) -> Iterator[str]:
        """Yield warnings about what was never asked or opened, and about other tests' threads that asked."""
        name, asked = scenario.place.id, _threads(scenario)
        recording = self._options.record != RecordMode.NONE and scenario.cassette is not None
        if recording and scenario.kind == "test" and not scenario.touched:
            yield (
                f"{name}: no model call was seen, so nothing was recorded. A client in another "
                "process needs the fixture token_budget_proxy; a transport of its own goes past recordings."
            )
        if scenario.place.recorder == "pytest-recording" and not scenario.adopted:
            yield f"{name}: @pytest.mark.vcr has opened no cassette, so that nothing it asks is metered."
        for thread, starter in self._background.strangers(name, asked):
            yield (
                f"{name}: the thread {thread!r}, which {starter} has started, asked a model while this test "
                "ran, and counts here. Let the test that starts a thread wait for it."
            )

    def left_behind(self, scenario: Scenario) -> Iterator[str]:
        """Yield warnings about threads of a test that is over, with its teardown."""
        self._note_threads()
        name = scenario.place.id
        for thread in self._background.left_by(name, _threads(scenario)):
            yield (
                f"{name}: the thread {thread!r} has asked a model and still runs after it. What it asks "
                "from now on is not metered, or counts for another test: let the test wait for it."
            )

    def _note_threads(self) -> None:
        """Note new threads as the test's that is on; those of wider fixtures are no test's."""
        on = self._on[-1][0] if self._on else None
        self._background.note(on.place.id if on and on.kind == "test" else None)

    def _adopted(self, path: str, held: Sequence[Interaction], rules: Rules) -> Ledger:
        """Return the ledger of a cassette that the user's code opens now.

        A fixture of a test opens it for the test. What is asked of it belongs to whoever is on top then,
        since the cassette of a wider fixture serves many tests.
        """
        opener = next(one for one, _ in reversed(self._on) if one.kind != "fixture")

        def asker() -> str:
            on = next((one for one, _ in reversed(self._on) if one.kind != "fixture"), opener)
            on.adopts(ledger)
            return on.place.id

        accepted = self._accepted(opener.place, lambda: ledger.shared)
        offline = self._options.judge and not (self._options.calls or rules.calls)
        rules = replace(
            rules,
            asker=asker,
            limits=self._allowances,
            accepted=accepted,
            redactor=self._redactor,
            placeholder=offline and bool(held) and opener.suite.placeholder,
            answered=self._answered,
            count=self._count,
        )
        ledger = Ledger(opener.place.id, _command(opener, path), held, rules)
        opener.adopts(ledger)
        return ledger


def _unmetered(asker: Asker, sent: Sent, kind: str | None) -> str:
    """Return a sentence: a model call was not sent, since nothing meters it, and the line to add."""
    called = f"{asker.name} calls a model at {sent.host}, and no scenario meters it: nothing was sent."
    allowed = json.dumps(asker.node if asker.node and kind in (None, "test", "teardown") else sent.host)
    if kind in (None, "test") and asker.is_known():
        return (
            f"{called} Its marker was forgotten, for it has a cassette and a baseline: put "
            f"@pytest.mark.{MARKER} above the test again."
        )
    if kind is not None and "fixture" in kind:
        way = f"Let a test that is marked with @pytest.mark.{MARKER} ask for it"
    elif "::" in asker.node:
        way = f"Put @pytest.mark.{MARKER} above the test"
    else:
        way = "Let a test or a fixture make the call"
    return f"{called} {way}; or let it pass: allow_unmetered = [{allowed}] in [tool.tokenbudget]."


def _command(opener: Scenario, path: str) -> str:
    """Return how a cassette of the suite's own is recorded anew: a command, or words."""
    if opener.place.recorder == "pytest-recording":
        return shlex.join([*REWRITE, ScenarioId(opener.place.id).argument])
    return f"delete {path}, and run the test as the suite records it"


def _threads(scenario: Scenario) -> set[threading.Thread]:
    return set().union(*(ledger.threads for ledger in scenario.ledgers))


_POOLS = frozenset({"concurrent.futures.thread", "anyio._backends._asyncio"})
"""Modules whose threads work for whoever gives them work, not for who happened to start them."""
_WAITING = frozenset({"threading", "queue"})


class BackgroundThreads:
    """Knows which test started a thread, as far as that shows: it was not there when the test began."""

    def __init__(self) -> None:
        self._started_by: WeakKeyDictionary[threading.Thread, str | None] = WeakKeyDictionary()

    def note(self, test: str | None) -> None:
        """Note that `test` started every thread that began since the last note.

        `test` is None for a fixture that outlives the test, and if it is unknown.
        """
        for thread in threading.enumerate():
            self._started_by.setdefault(thread, test)

    def left_by(self, test: str, asked: Iterable[threading.Thread]) -> Iterator[str]:
        """Yield the names of the threads in `asked` that a test started and that still work."""
        for thread in asked:
            if self._started_by.get(thread) == test and thread.is_alive() and not _is_idle(thread):
                yield thread.name

    def strangers(self, test: str, asked: Iterable[threading.Thread]) -> Iterator[tuple[str, str]]:
        """Yield (name, other test) of each thread in `asked` that another test started."""
        for thread in asked:
            starter = self._started_by.get(thread)
            if starter is not None and starter != test and not _is_of_a_pool(thread):
                yield thread.name, starter


def _is_of_a_pool(thread: threading.Thread) -> bool:
    return not _POOLS.isdisjoint(_modules(thread))


def _is_idle(thread: threading.Thread) -> bool:
    """Return whether a thread belongs to a pool and waits for work."""
    running = itertools.dropwhile(lambda module: module in _WAITING, _modules(thread))
    return next(running, None) in _POOLS


def _modules(thread: threading.Thread) -> Iterator[str]:
    """Yield the names of the modules on a thread's stack, innermost first."""
    frame = sys._current_frames().get(thread.ident or 0)
    while frame is not None:
        yield str(frame.f_globals.get("__name__"))
        frame = frame.f_back
