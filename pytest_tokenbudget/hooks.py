"""What pytest's hooks mean for scenarios. Registered only in runs that have something to do."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Generator, Iterator
from typing import Any

import pytest

from pytest_tokenbudget import places
from pytest_tokenbudget.config import load_settings
from pytest_tokenbudget.errors import ReplayMiss, TokenBudgetError, TokenBudgetWarning
from pytest_tokenbudget.options import MARKER, SAMPLE, Options
from pytest_tokenbudget.replay.child import Access as Access  # part of the fixture's signature
from pytest_tokenbudget.reports.document import ScenarioEntry
from pytest_tokenbudget.reports.junit import properties
from pytest_tokenbudget.scenario import Scenario
from pytest_tokenbudget.session import Session
from pytest_tokenbudget.stability import move_clock
from pytest_tokenbudget.stage import Stage
from pytest_tokenbudget.summary import ENTRIES, Summary

SCENARIO = pytest.StashKey[Scenario]()
TEARDOWN = pytest.StashKey[Scenario]()


class BudgetFailure(pytest.fail.Exception):  # type: ignore[misc, name-defined]  # set on a function
    """A scenario that fails its budget: told without a traceback, and never hidden by xfail."""


def activate(config: pytest.Config, options: Options) -> None:
    """Register what this process needs, once. Raises pytest.UsageError for settings that cannot be used."""
    if config.pluginmanager.has_plugin("tokenbudget-scenarios"):
        return
    try:
        settings = load_settings(config.rootpath)
        session = Session(config.rootpath, options, settings, getattr(config, "cache", None))
    except TokenBudgetError as error:
        raise pytest.UsageError(str(error)) from None
    move_clock()
    config.pluginmanager.register(Scenarios(config, session), "tokenbudget-scenarios")
    if options.judge and not hasattr(config, "workerinput"):
        config.pluginmanager.register(Summary(config, session), "tokenbudget-summary")


@contextlib.contextmanager
def proxy(request: pytest.FixtureRequest) -> Iterator[Access]:
    """What the fixture `token_budget_proxy` is for the test that asks for it."""
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


class Scenarios:
    """Runs scenarios: in the only process, or in each worker of pytest-xdist."""

    def __init__(self, config: pytest.Config, session: Session) -> None:
        self._config = config
        self._session = session
        self._stage = Stage(
            session.options,
            allowed_hosts=session.settings.allowed_hosts,
            spending=session.spending(getattr(config, "workerinput", {}).get("workercount", 1)),
            redact=session.settings.redact,
        )
        self._examined: list[ScenarioEntry] = []
        self._fixtures_of_scenarios: set[str] = set()

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """A fixture of a marked test is metered whichever test sets it up first."""
        for item in items:
            if places.is_marked(item):
                self._fixtures_of_scenarios.update(getattr(item, "fixturenames", ()))

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        """Run a marked test as often as samples are asked for."""
        samples = self._session.options.samples
        if samples > 1 and metafunc.definition.get_closest_marker(MARKER):
            metafunc.fixturenames.append(SAMPLE)
            numbers = range(1, samples + 1)
            metafunc.parametrize(SAMPLE, numbers, ids=[f"{SAMPLE}{number}" for number in numbers])

    # --- tests ----------------------------------------------------------------------------------------------

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> Generator[None, object, object]:
        """Go on before any fixture of the test is set up."""
        if places.is_marked(item) or self._session.options.judge:
            with _told_plainly():
                scenario = places.scenario_of(item, self._session.settings)
                item.stash[SCENARIO] = scenario
                self._stage.enter(scenario, fenced=True)
        return (yield)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Generator[None, object, object]:
        """Judge the test when its body is over."""
        scenario = item.stash.get(SCENARIO, None)
        if scenario is None:
            return (yield)
        try:
            result = yield
        except BaseException as error:
            if not (_stems_from_a_miss(error) or scenario.failed_a_child):
                raise  # its own failure, skip or interruption: an unfinished run is not judged
            result = None
        with _told_plainly():
            self._end(scenario, item)
        return result

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_teardown(self, item: pytest.Item) -> Generator[None, object, object]:
        """What is called in teardown has an account and a cassette of its own."""
        scenario = item.stash.get(SCENARIO, None)
        if scenario is None:
            return (yield)
        teardown = item.stash[TEARDOWN] = places.teardown_of(scenario)
        try:
            with _told_plainly():
                self._stage.enter(teardown)
            result = yield
            if teardown.touched:
                with _told_plainly():
                    self._end(teardown, item)
        finally:
            self._stage.leave(teardown)
            self._stage.leave(scenario)
            del item.stash[SCENARIO], item.stash[TEARDOWN]
        return result

    def _end(self, scenario: Scenario, item: pytest.Item | None = None) -> None:
        """Measure and judge, keep a new recording, and fail where that is due."""
        scenario.settle()
        concluded = self._session.conclude(scenario)
        if concluded.entry is not None:
            self._examined.append(concluded.entry)
        if item is not None:
            item.user_properties.extend(properties(concluded.entry) if concluded.entry else ())
            for warning in concluded.warnings:
                item.warn(TokenBudgetWarning(warning))
        if concluded.failure and (item is not None or concluded.entry is None):
            # Of a judged fixture, the process that collects reports a line of its own.
            raise BudgetFailure(concluded.failure, pytrace=False)

    @contextlib.contextmanager
    def proxy(self, item: pytest.Item) -> Iterator[Access]:
        """For agents in other processes that a test starts."""
        scenario = item.stash.get(SCENARIO, None)
        if scenario is None or scenario.own is None:
            raise BudgetFailure(_needs_marker(item), pytrace=False)
        with contextlib.ExitStack() as opened:
            with _told_plainly():
                proxy = opened.enter_context(self._stage.proxy(scenario))
            yield proxy.access

    # --- fixtures of wider scope ----------------------------------------------------------------------------

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(
        self, fixturedef: pytest.FixtureDef[Any], request: pytest.FixtureRequest
    ) -> Generator[None, object, object]:
        """A fixture of wider scope has its own cassette and its own line, whichever test needs it first."""
        own = fixturedef.argname in self._fixtures_of_scenarios
        if fixturedef.scope == "function" or not (own or self._session.options.judge):
            return (yield)
        scenario = places.fixture_scenario(fixturedef, request, self._session.settings, own=own)
        fixturedef.addfinalizer(lambda: self._finish_fixture(scenario))  # the last of them to run
        with _told_plainly():
            self._stage.enter(scenario)
        try:
            result = yield
        except BaseException:
            scenario.failed = True
            raise
        finally:
            self._stage.leave(scenario)
        fixturedef.addfinalizer(lambda: self._stage.enter(scenario))  # the first of them to run
        return result

    def _finish_fixture(self, scenario: Scenario) -> None:
        self._stage.leave(scenario)
        if scenario.touched and not scenario.failed:
            with _told_plainly():
                self._end(scenario)

    # --- reports --------------------------------------------------------------------------------------------

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_makereport(
        self, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Send what was examined along, and let no xfail hide a budget's failure."""
        report = yield
        if self._examined and type(report) is pytest.TestReport:
            setattr(report, ENTRIES, self._examined)
            self._examined = []
        if call.excinfo is not None and isinstance(call.excinfo.value, BudgetFailure):
            report.outcome = "failed"
            report.longrepr = str(call.excinfo.value)
            report.__dict__.pop("wasxfail", None)
        return report


@contextlib.contextmanager
def _told_plainly() -> Iterator[None]:
    """An error of the catalogue is the user's to mend: its text, without a traceback."""
    try:
        yield
    except TokenBudgetError as error:
        raise BudgetFailure(str(error), pytrace=False) from None


def _stems_from_a_miss(error: BaseException | None) -> bool:
    """Whether a test's exception is a miss, or holds one: as a cause, or in the group of a task group."""
    seen: set[int] = set()
    queue = [error]
    while queue:
        one = queue.pop()
        if one is None or id(one) in seen:
            continue
        if isinstance(one, ReplayMiss):
            return True
        seen.add(id(one))
        queue += [one.__cause__, one.__context__]
        if isinstance(one, BaseExceptionGroup):
            queue += one.exceptions
    return False
