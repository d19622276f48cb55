"""Answer pytest's hooks and fixtures: tests and fixtures that call a model are scenarios.

The plugins here are registered only in runs that have something to do.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import unittest
from collections import defaultdict
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pytest_tokenbudget.errors import ReplayMiss, TokenBudgetError
from pytest_tokenbudget.files import seen_from
from pytest_tokenbudget.replay.proxy import Access as Access  # part of the fixture's signature
from pytest_tokenbudget.reports.document import FormerlyEntry
from pytest_tokenbudget.reports.exports import properties
from pytest_tokenbudget.run import items, reporting
from pytest_tokenbudget.run.active import Asker, Stage
from pytest_tokenbudget.run.reporting import (
    COLLECTED,
    ENTRIES,
    LEFT_OUT,
    MEASURED_ON,
    RECORDED,
    SUSPICIONS,
    UNJUDGED,
    UNMETERED,
    BudgetFailure,
    Node,
    Summary,
    is_unfinished,
    miss_behind,
    told_plainly,
    updated,
    warn,
)
from pytest_tokenbudget.run.results import Collected, Results, Unjudged
from pytest_tokenbudget.run.scenario import Scenario
from pytest_tokenbudget.run.session import Session
from pytest_tokenbudget.run.stability import Clock
from pytest_tokenbudget.settings import MARKER, SAMPLE, Options, SettingsFiles

SCENARIO = pytest.StashKey[Scenario]()
TEARDOWN = pytest.StashKey[Scenario]()
EXCLUDED = pytest.StashKey[str | None]()
"""Why a test is not judged; None where it is."""
REFUSALS = pytest.StashKey[list[str]]()
"""Why model calls of a test that is no scenario were refused."""
ENDED = pytest.StashKey[Scenario]()
"""The scenario of a unittest test between its body and its report, which alone says how it ended."""


def activate(config: pytest.Config, options: Options, *, stood_in: bool = False) -> None:
    """Register what this process needs, once. Raises pytest.UsageError for settings that cannot be used.

    `stood_in` says that a client may hold a stand-in for a key.
    """
    if config.pluginmanager.has_plugin("tokenbudget-scenarios"):
        return
    try:
        if options.judge:
            items.check_recording(config)
        files = SettingsFiles(config.rootpath)
        cache = getattr(config, "cache", None)
        session = Session(config.rootpath, options, files, reporting.Cache(cache) if cache else None)
    except TokenBudgetError as error:
        raise pytest.UsageError(f"{error}\n{error.more}") from None
    results = Results(session)
    scenarios = Scenarios(config, session, results, Clock())
    config.pluginmanager.register(scenarios, "tokenbudget-scenarios")
    config.pluginmanager.register(scenarios.fixtures, "tokenbudget-fixtures")
    is_closed = options.judge or options.calls
    if stood_in and not is_closed:
        scenarios.keep_stand_ins()
    elif is_closed and not config.pluginmanager.has_plugin(
        "dsession"
    ):  # the controller of xdist asks nothing
        config.pluginmanager.register(StandIns(scenarios.keep_stand_ins), "tokenbudget-stand-ins")
    if (options.judge or options.calls) and not hasattr(config, "workerinput"):
        config.pluginmanager.register(Summary(config, session, results), "tokenbudget-summary")


@contextlib.contextmanager
def proxy(request: pytest.FixtureRequest) -> Iterator[Access]:
    """Yield what the fixture `token_budget_proxy` is for the test that asks for it."""
    item, plugins = request.node, request.config.pluginmanager
    if request.config.getoption("--token-budget-disable"):
        yield Access.direct(os.environ)
        return
    scenarios = plugins.get_plugin("tokenbudget-scenarios")
    if scenarios is None:
        raise BudgetFailure(_needs_marker(item), pytrace=False)
    with scenarios.proxy(item) as opened:
        yield opened


def _needs_marker(item: pytest.Item) -> str:
    return (
        f"{item.nodeid}: token_budget_proxy answers out of the test's own cassette, and it has none. "
        f"Mark the test with @pytest.mark.{MARKER}, and do not let @pytest.mark.vcr record it as well."
    )


class StandIns:
    """Closes a run from collection on: it sends no stand-in for a key, and no call that nothing meters."""

    def __init__(self, keep: Callable[[], None]) -> None:
        self._keep = keep

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection(self) -> None:
        """Begin when the conftests of the suite have opened their cassettes."""
        self._keep()


class Scenarios:
    """Runs scenarios: in the only process, or in each worker of pytest-xdist."""

    def __init__(self, config: pytest.Config, session: Session, results: Results, clock: Clock) -> None:
        self._config = config
        self._clock = clock
        self._session = session
        self._results = results
        self._stage = Stage(
            session.options,
            session.prices,
            config.rootpath,
            ignored_hosts=session.settings.ignored_hosts,
            spending=session.spending,
            redactor=session.redactor,
            accepted=session.accepted,
            answered=clock.step,
            count=lambda recorded, asked: session.meter.token_count(recorded, asked),
        )
        self.fixtures = Fixtures(
            self._stage, session.files, self._end, session.log, judge=session.options.judge
        )
        self._tests = items.CollectedTests()
        self.collected: Collected | None = None
        """What was collected; None before all is."""
        self._news: dict[str, list[object]] = defaultdict(list)
        self._told: set[str] = set()
        self._cassettes = items.Cassettes()

    def keep_stand_ins(self) -> None:
        """Refuse to send stand-ins for a key, to the end of the run."""
        stack = contextlib.ExitStack()
        self._config.add_cleanup(stack.close)
        stack.enter_context(self._stage.outside())

    def pytest_itemcollected(self, item: pytest.Item) -> None:
        """Note each test that there is."""
        self._tests.add(item)

    def pytest_collectstart(self, collector: pytest.Collector) -> None:
        """Note each folder that is looked through."""
        self._tests.enter(collector)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """Note the modules that are skipped as a whole."""
        self._tests.end(report)

    def pytest_sessionfinish(self) -> None:
        """Write what nothing has metered, and what a recording would call, if that is asked for."""
        self._session.write_plan()
        if hasattr(self._config, "workeroutput"):
            self._config.workeroutput[UNMETERED] = dict(self._stage.unmetered)

    def pytest_unconfigure(self) -> None:
        """Restore the HTTP libraries if a run ended in the middle of a test (`pytest.exit`)."""
        self._stage.close()

    @property
    def unmetered(self) -> Mapping[str, int]:
        """Return by who made them the model calls that nothing meters."""
        return self._stage.unmetered

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Learn which test each cassette belongs to, what to hide, and what is not judged."""
        partly: list[Path] = []
        for folder in {item.path.parent for item in session.items}:
            with contextlib.suppress(TokenBudgetError):  # each of its tests tells it
                self._session.files.of(folder)
        self._session.redactor.hide(self._session.files.redact)
        if self._session.options.judge:
            self.fixtures.know_judged(session.items)
            self.collected = self._tests.told(session)
            partly = [self._session.root / file for file in self.collected["partly"]]
            if file := self._session.options.collected:
                file.write_text(json.dumps(self.collected), "utf-8")
            if hasattr(self._config, "workeroutput"):
                self._config.workeroutput[COLLECTED] = self.collected
        self._cassettes = items.Cassettes(session.items, partly)
        worker = getattr(self._config, "workerinput", {}).get("workerid", "gw0")  # all collect the same
        if self._session.options.judge and worker == "gw0":
            for idle in self._tests.idle(self._session.files.exclude, session):
                warn(session, idle)

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        """Run a marked test as often as samples are asked for."""
        samples = self._session.options.samples
        if samples > 1 and metafunc.definition.get_closest_marker(MARKER):
            metafunc.fixturenames.append(SAMPLE)
            numbers = range(1, samples + 1)
            metafunc.parametrize(SAMPLE, numbers, ids=[f"{SAMPLE}{number}" for number in numbers])

    @pytest.hookimpl(wrapper=True)
    def pytest_make_collect_report(
        self, collector: pytest.Collector
    ) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
        """Let no module call a model while it is imported."""
        if not isinstance(collector, pytest.File):
            return (yield)
        file = items.from_root(self._config.rootpath, collector.path)
        try:
            suite = self._session.files.of(collector.path.parent)
        except TokenBudgetError:  # each of its tests tells it
            suite = self._session.settings
        refusals = self._stage.ask(Asker(f"collection of {file}", suite, file))
        report = yield
        self._stage.ask(None)
        if refusals:
            report.outcome, report.longrepr, report.result = "failed", reporting.printable(refusals[0]), []
        return report

    # --- tests ----------------------------------------------------------------------------------------------

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        """Enter the scenario of a test before any of its fixtures is set up.

        No wrapper: one that fails keeps others from their setup, but not from their teardown.
        """
        self._clock.begin()
        if items.is_marked(item) or self._session.options.judge or self._session.options.calls:
            self._skip_decided(item)
            with told_plainly():
                scenario = items.scenario_of(item, self._session.files)
                item.stash[REFUSALS] = self._ask(item, scenario)
                if not (items.is_marked(item) or self._session.options.judge):
                    return
                self._cassettes.check(scenario)
                item.stash[EXCLUDED] = scenario.settings.exclude
                if scenario.settings.exclude is None or items.is_marked(item):
                    if items.is_marked(item):
                        self._session.check_live(scenario.place)
                    item.stash[SCENARIO] = scenario
                    self._stage.enter(scenario, fenced=True)

    def _skip_decided(self, item: pytest.Item) -> None:
        """Skip live runs of a scenario that is proved to be over; several processes do not know of that."""
        options = self._session.options
        if options.samples < 2 or hasattr(self._config, "workerinput") or not items.is_marked(item):
            return
        scenarios = len({items.place_of(other).id for other in item.session.items if items.is_marked(other)})
        if number := self._results.decided_after(items.place_of(item).id, scenarios):
            pytest.skip(f"it is over after {number} of {options.samples} live runs")

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Generator[None, object, object]:
        """Judge the test when its body is over."""
        scenario = item.stash.get(SCENARIO, None)
        if scenario is None:
            result = yield
            for refusal in item.stash.get(REFUSALS, ()):
                raise BudgetFailure(refusal, pytrace=False)  # which the test has swallowed
            return result
        try:
            result = yield
        except BaseException as error:
            if is_unfinished(error, missed=scenario.missed):
                scenario.outcome = _ended(error)
                raise
            result = None
        if isinstance(getattr(item, "instance", None), unittest.TestCase):
            item.stash[ENDED] = scenario
            return result
        with told_plainly():
            self._end(scenario, item)
        return result

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_teardown(self, item: pytest.Item) -> Generator[None, object, object]:
        """Meter what is called in teardown apart, with a cassette of its own."""
        scenario = item.stash.get(SCENARIO, None)
        if scenario is None:
            try:
                return (yield)
            finally:
                self._stage.ask(None)
        teardown = item.stash[TEARDOWN] = items.teardown_of(scenario)
        try:
            with told_plainly():
                self._stage.enter(teardown)
            result = yield
            if teardown.touched:
                with told_plainly():
                    self._end(teardown, item)
        finally:
            self._stage.leave(teardown)
            self._stage.leave(scenario)
            self._stage.ask(None)
            del item.stash[SCENARIO], item.stash[TEARDOWN]
            with told_plainly():
                self._session.log(scenario)
                self._session.log(teardown)
            left_behind = [*self._stage.left_behind(scenario)]
            scenario.forget()
            teardown.forget()
        for warning in left_behind:
            warn(item, warning)
        return result

    def _ask(self, item: pytest.Item, scenario: Scenario) -> list[str]:
        """Name the test that may call a model past all scenarios; return what will be refused."""
        place = scenario.place

        def is_known() -> bool:
            has_cassette = place.recorder is None and items.own_cassette(item).exists()
            return has_cassette and not items.is_marked(item) and self._session.has_baseline(place)

        excluded = scenario.settings.exclude is not None
        return self._stage.ask(Asker(place.id, scenario.suite, place.id, excluded, is_known))

    def _end(self, scenario: Scenario, node: Node) -> None:
        """Measure and judge a scenario, keep a new recording, and fail if that is due.

        A fixture or a teardown that fails its budget is reported at the end of the run, as a failure of its
        own: an error of the test that happens to come last would be another's.
        """
        scenario.settle()
        if self._session.options.judge:
            scenario.renamed = self._renamed(scenario)
        try:
            concluded = self._session.conclude(scenario)
        except TokenBudgetError as error:
            if scenario.kind != "test" and str(error) in self._told:
                return  # a file that cannot be read has failed the run already
            self._told.add(str(error))
            raise
        self._note(RECORDED, concluded.recorded)
        self._note(ENTRIES, concluded.entry)
        self._note(MEASURED_ON, concluded.measured_on)
        self._note(SUSPICIONS, concluded.suspicion)
        if concluded.entry is not None and scenario.kind == "test" and isinstance(node, pytest.Item):
            node.user_properties[:] = updated(node.user_properties, properties(concluded.entry))
        for warning in (*concluded.warnings, *self._stage.warnings(scenario)):
            warn(node, warning)
        if concluded.failure and (scenario.kind == "test" or concluded.entry is None):
            raise BudgetFailure(concluded.failure, pytrace=False)

    def _renamed(self, scenario: Scenario) -> FormerlyEntry | None:
        """Return what to do where a scenario stands under another name in the files of the repository."""
        root, place = self._session.root, scenario.place
        if found := self._cassettes.renamed(scenario, root):
            return found
        is_known = self._session.has_baseline(place)
        return None if is_known else self._cassettes.baseline_elsewhere(scenario, root)

    def _note(self, what: str, entry: object) -> None:
        """Attach `entry` to the next test report, so that xdist carries it to the controller."""
        if entry is not None:
            self._news[what].append(entry)

    def _keep(self, item: pytest.Item) -> None:
        """Keep the recording of a test that fails as expected: it is not judged, but still recorded."""
        scenario = item.stash.get(SCENARIO, None)
        if scenario is not None:
            with told_plainly():
                self._note(RECORDED, self._session.keep(scenario))

    @contextlib.contextmanager
    def proxy(self, item: pytest.Item) -> Iterator[Access]:
        """Yield a proxy for agents in other processes that a test starts."""
        scenario = item.stash.get(SCENARIO, None)
        if scenario is None or scenario.own is None:
            raise BudgetFailure(_needs_marker(item), pytrace=False)
        with contextlib.ExitStack() as opened:
            with told_plainly():
                proxy = opened.enter_context(self._stage.proxy(scenario))
            yield proxy.access

    # --- reports --------------------------------------------------------------------------------------------

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Attach what was examined to the report, and let no xfail hide a budget's failure."""
        ended = item.stash.get(ENDED, None)
        report = yield
        failure = call.excinfo.value if call.excinfo else None
        if ended is not None:
            del item.stash[ENDED]
            failure = self._judged(ended, item, failure)
            report.user_properties[:] = item.user_properties
        is_budgets = isinstance(failure, BudgetFailure)
        if call.when == "call" and report.skipped and hasattr(report, "wasxfail") and not is_budgets:
            self._keep(item)
        if self._session.options.judge:
            outcome = reporting.outcome_of(report, is_budgets=is_budgets)
            self._note(UNJUDGED, self._unjudged(item, outcome, failure) if outcome else None)
            if call.when == "teardown" and (why := item.stash.get(EXCLUDED, None)):
                self._note(LEFT_OUT, {"id": items.place_of(item).id, "why": why})
        if self._session.options.samples > 1:
            report.nodeid = items.without_sample(report.nodeid)  # by that a sample is found again
        if type(report) is pytest.TestReport:
            vars(report).update(self._news)
            self._news.clear()
        if is_budgets:
            report.outcome = "failed"
            report.longrepr = self._shown(failure)
            report.__dict__.pop("wasxfail", None)
        elif isinstance(failure, ReplayMiss):
            report.longrepr = self._shown(failure)  # of a subtest
        if self._session.options.calls:
            self._tell_calls(report, item.stash.get(SCENARIO, None), None if is_budgets else failure)
        return report

    def _tell_calls(
        self, report: pytest.TestReport, scenario: Scenario | None, failure: BaseException | None
    ) -> None:
        """Say what became of the real calls of a test; a key that was refused is one sentence."""
        if report.failed and (denied := reporting.of_credentials(failure, scenario)):
            report.longrepr = reporting.printable(denied)
        report.sections += reporting.of_real_calls(report, scenario, live=self._session.options.live)

    def _shown(self, failure: BaseException | None) -> str:
        """Return why a test fails, as the terminal shows it, without secrets."""
        return reporting.printable(self._as_seen(str(failure)))

    def _as_seen(self, text: str) -> str:
        """Return a text without secrets, and with paths as they are seen from where pytest was called."""
        return seen_from(self._config.invocation_params.dir, self._session.redactor.text(text))

    def _unjudged(self, item: pytest.Item, outcome: str, error: BaseException | None) -> Unjudged | None:
        """Return what is told of a test that ended with `outcome`; None if it is judged or no scenario."""
        place, scenario = items.place_of(item), item.stash.get(SCENARIO, None)
        if item.stash.get(EXCLUDED, None):
            return None
        if any(isinstance(entry, dict) and entry["id"] == place.id for entry in self._news[ENTRIES]):
            return None
        asked = scenario is not None and scenario.touched
        if not (asked or items.is_marked(item) or self._session.has_baseline(place)):
            return None
        text = self._as_seen(reporting.why(error)) if outcome == "failed" else None
        not_run = scenario is not None and scenario.not_run
        return {"id": place.id, "outcome": "not_run" if not_run else outcome, "text": text}

    def _judged(
        self, scenario: Scenario, item: pytest.Item, error: BaseException | None
    ) -> BaseException | None:
        """Return what a test of unittest fails by once its body is over: its own error, or its budget."""
        if error is not None and is_unfinished(error, missed=scenario.missed):
            scenario.outcome = _ended(error)
            return error
        try:
            with told_plainly():
                self._end(scenario, item)
        except BudgetFailure as failure:
            return failure
        return error


def _ended(error: BaseException) -> str:
    """Return how a test ended that was not judged."""
    return "skipped" if isinstance(error, pytest.skip.Exception | unittest.SkipTest) else "failed"


class Fixtures:
    """Meters fixtures; `end` measures and judges a scenario that is over, and `log` writes its line."""

    def __init__(
        self,
        stage: Stage,
        files: SettingsFiles,
        end: Callable[[Scenario, Node], None],
        log: Callable[[Scenario], None],
        *,
        judge: bool,
    ) -> None:
        self._stage = stage
        self._files = files
        self._end = end
        self._log = log
        self._judge = judge
        self._fixtures: frozenset[str] | None = None
        self._judged: frozenset[str] | None = None
        self._parameters: dict[str, dict[str, int]] = {}
        """The parameters that each fixture is set up for, its own and those of what it asks for."""

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(
        self, fixturedef: pytest.FixtureDef[Any], request: pytest.FixtureRequest
    ) -> Generator[None, object, object]:
        """Meter a fixture apart, with its own cassette and line, whichever test needs it first."""
        self._note_parameters(fixturedef, request)
        scenario = self._fixture(fixturedef, request)
        if scenario is None:
            return (yield)
        fixturedef.addfinalizer(lambda: self._finish_fixture(scenario, request.node))  # the last to run
        with told_plainly():
            self._stage.enter(scenario)
        try:
            result = yield
        except BaseException as error:
            scenario.failed = True
            if miss := miss_behind(error):
                raise self._missed(scenario, request.node, miss) from None
            raise
        finally:
            self._stage.leave(scenario)
        self._stage.share(scenario)
        fixturedef.addfinalizer(lambda: self._stage.enter(scenario))  # the first to run
        return result

    def know_judged(self, tests: Iterable[pytest.Item]) -> None:
        """Learn what the `tests` that are judged ask for: what only excluded tests ask for is excluded."""
        judged = [item for item in tests if not items.is_excluded(item, self._files)]
        self._judged = frozenset(name for item in judged for name in getattr(item, "fixturenames", ()))

    def _note_parameters(self, fixturedef: pytest.FixtureDef[Any], request: pytest.FixtureRequest) -> None:
        """Note the parameters of a fixture; those that it asks for were set up before it."""
        name = fixturedef.argname
        own = {name: int(getattr(request, "param_index", 0))} if hasattr(request, "param") else {}
        if fixturedef.scope != "function":  # else the name of the test has them
            for asked in sorted(fixturedef.argnames):
                own |= self._parameters.get(asked, {})
        self._parameters[name] = own

    def _fixture(self, fixturedef: pytest.FixtureDef[Any], request: pytest.FixtureRequest) -> Scenario | None:
        """Return the scenario that a fixture is, or None if it cannot call anything that is metered apart."""
        test = self._stage.test
        own = test is not None and test.cassette is not None
        if fixturedef.scope == "function":
            needed = own
        else:
            own = own or fixturedef.argname in self._fixtures_of_scenarios(request.session)
            needed = own or self._judge
        if not needed:
            return None
        indices = self._parameters[fixturedef.argname].values()
        scenario = items.fixture_scenario(fixturedef, request, self._files, indices, own=own)
        if self._is_excluded(fixturedef):
            scenario.settings = replace(scenario.settings, exclude="only excluded tests ask for it")
        return scenario if own or scenario.settings.exclude is None else None

    def _is_excluded(self, fixturedef: pytest.FixtureDef[Any]) -> bool:
        """Return whether only tests that are excluded ask for a fixture."""
        test = self._stage.test
        if fixturedef.scope == "function" and test is not None:
            return test.settings.exclude is not None
        return self._judged is not None and fixturedef.argname not in self._judged

    def _fixtures_of_scenarios(self, session: pytest.Session) -> frozenset[str]:
        """Return the names of fixtures that marked tests ask for.

        They are metered whichever test sets them up first.
        """
        if self._fixtures is None:
            marked = filter(items.is_marked, session.items)
            self._fixtures = frozenset(
                itertools.chain.from_iterable(getattr(item, "fixturenames", ()) for item in marked)
            )
        return self._fixtures

    def _missed(self, scenario: Scenario, node: Node, miss: ReplayMiss) -> BudgetFailure:
        """Return the failure of a fixture that could not be set up, as its recording has no answer."""
        with told_plainly(), contextlib.suppress(BudgetFailure):
            self._end(scenario, node)
        return BudgetFailure(str(miss), pytrace=False)

    def _finish_fixture(self, scenario: Scenario, node: Node) -> None:
        self._stage.leave(scenario)
        scenario.outcome = "failed" if scenario.failed else None
        with told_plainly():
            if not scenario.failed:
                self._end(scenario, node)
            self._log(scenario)
        scenario.forget()
