"""What pytest's fixtures mean for scenarios: each that calls a model is one of its own."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Generator
from typing import Any

import pytest

from pytest_tokenbudget.errors import ReplayMiss
from pytest_tokenbudget.run import items
from pytest_tokenbudget.run.active import Stage
from pytest_tokenbudget.run.reporting import BudgetFailure, Node, miss_behind, told_plainly
from pytest_tokenbudget.run.scenario import Scenario
from pytest_tokenbudget.settings import Settings


class Fixtures:
    """Meters fixtures; `end` measures and judges a scenario that is over."""

    def __init__(
        self, stage: Stage, settings: Settings, end: Callable[[Scenario, Node], None], *, judge: bool
    ) -> None:
        self._stage = stage
        self._settings = settings
        self._end = end
        self._judge = judge
        self._fixtures: frozenset[str] | None = None
        self._parameters: dict[str, dict[str, int]] = {}
        """By fixture: the parameters that it is set up for, its own and those of what it asks for."""

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(
        self, fixturedef: pytest.FixtureDef[Any], request: pytest.FixtureRequest
    ) -> Generator[None, object, object]:
        """A fixture has its own cassette and its own line, whichever test needs it first."""
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

    def _note_parameters(self, fixturedef: pytest.FixtureDef[Any], request: pytest.FixtureRequest) -> None:
        """What a fixture asks for was set up before it."""
        name = fixturedef.argname
        own = {name: int(getattr(request, "param_index", 0))} if hasattr(request, "param") else {}
        if fixturedef.scope != "function":  # else the name of the test has them
            for asked in sorted(fixturedef.argnames):
                own |= self._parameters.get(asked, {})
        self._parameters[name] = own

    def _fixture(self, fixturedef: pytest.FixtureDef[Any], request: pytest.FixtureRequest) -> Scenario | None:
        """The scenario that a fixture is; None where it cannot call anything that is metered apart."""
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
        return items.fixture_scenario(fixturedef, request, self._settings, indices, own=own)

    def _fixtures_of_scenarios(self, session: pytest.Session) -> frozenset[str]:
        """Those that marked tests ask for: metered whichever test sets them up first."""
        if self._fixtures is None:
            marked = filter(items.is_marked, session.items)
            self._fixtures = frozenset(
                itertools.chain.from_iterable(getattr(item, "fixturenames", ()) for item in marked)
            )
        return self._fixtures

    def _missed(self, scenario: Scenario, node: Node, miss: ReplayMiss) -> BudgetFailure:
        """A fixture that could not be set up, for its recording has no answer."""
        with told_plainly(), contextlib.suppress(BudgetFailure):
            self._end(scenario, node)
        return BudgetFailure(str(miss), pytrace=False)

    def _finish_fixture(self, scenario: Scenario, node: Node) -> None:
        self._stage.leave(scenario)
        if not scenario.failed:
            with told_plainly():
                self._end(scenario, node)
