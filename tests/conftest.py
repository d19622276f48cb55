"""Options of the test suite itself."""

from __future__ import annotations

import functools
import gc
import importlib.metadata
import os
import sys
from collections.abc import Iterator, Mapping

import pytest
from hypothesis import HealthCheck, settings

from pytest_tokenbudget.metering.counting import CtokCounter
from pytest_tokenbudget.metering.pricing import Prices, RateCard
from pytest_tokenbudget.model import Rate
from support.budgeted import preload
from support.messages_api import MessagesApi
from support.sample import SEED, SIDES, WHOLE, examples, side
from support.scratch_suites import echo
from support.warm import read_certificates_once

# The machine may be busy: neither a slow example nor slow drawing is a fault.
settings.register_profile(
    "suite", deadline=None, max_examples=examples(100), suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("suite")

# A process that holds an SDK, vocabularies and pages has millions of objects that stay. To look through them
# as often as Python does by itself was a fifth of what the suite cost.
gc.set_threshold(50_000, 20, 20)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--rewrite-golden", action="store_true", help="write the golden files anew")
    parser.addoption(
        "--side", choices=SIDES, help="of the whole runs, take the files that the seed draws for this Python"
    )


def pytest_report_header() -> str:
    if WHOLE:
        return "bulk: the whole of it"
    return f"bulk: a tenth, drawn by seed {SEED}; make test-deep takes the whole"


STARTS_PYTEST = {"pytester", "quick"}
"""Fixtures of tests that start whole runs of pytest; others that do have the marker `whole_run`."""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark the whole runs, leave those of another side out, and skip what `make test-frameworks` tests.

    What needs the optional group runs only when it is asked for: it installs and starts heavy things.
    """
    for item in items:
        if STARTS_PYTEST.intersection(getattr(item, "fixturenames", ())):
            item.add_marker("whole_run")
        if item.get_closest_marker("frameworks") and "frameworks" not in config.getoption("-m"):
            item.add_marker(pytest.mark.skip(reason="runs under make test-frameworks (-m frameworks)"))
    if own := config.getoption("--side"):
        _leave_out_of_side(own, config, items)


def _leave_out_of_side(own: str, config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselect the whole runs whose file is drawn for the other Python."""
    runs = [item for item in items if item.get_closest_marker("whole_run")]
    fixed = {_file(item): "newest" for item in runs if item.get_closest_marker("newest")}
    left_out = {item for item in runs if side(_file(item), fixed) != own}
    items[:] = [item for item in items if item not in left_out]
    config.hook.pytest_deselected(items=[*left_out])


def _file(item: pytest.Item) -> str:
    return item.nodeid.partition("::")[0]


@pytest.fixture(scope="session", autouse=True)
def _what_tests_write_is_not_compiled() -> Iterator[None]:
    """A module that a test writes twice in a second, in one length, would be taken for the first."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "dont_write_bytecode", True)
        patch.setenv("PYTHONDONTWRITEBYTECODE", "1")
        yield


# Names of what keys, pytest and terminals read. Under CI, for one, pytest does not shorten its summary.
# A test that needs a variable sets it.
OF_TERMINALS = {"COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR", "PY_COLORS"}
OF_PYTEST = {"CI", "BUILD_NUMBER", "PYTEST_ADDOPTS", "PYTEST_PLUGINS", "PYTEST_THEME", "PYTEST_THEME_MODE"}
OF_OTHERS = ("ANTHROPIC_", "AWS_", "CLOUD_ML_", "GITHUB_")


@pytest.fixture(scope="session", autouse=True)
def _the_environment_is_the_same_everywhere() -> Iterator[None]:
    """Whoever runs the tests may have keys or be a CI; no test may come to need either, or to fail by it."""
    with pytest.MonkeyPatch.context() as patch:
        for name in list(os.environ):
            if name in OF_TERMINALS | OF_PYTEST or name.startswith(OF_OTHERS):
                patch.delenv(name)
        yield


@pytest.fixture(scope="session", autouse=True)
def _what_runs_import_is_imported_once(request: pytest.FixtureRequest) -> None:
    """A run in this process would import it again, for `pytester` forgets what comes after itself."""
    if any(item.get_closest_marker("whole_run") for item in request.session.items):
        preload()


@pytest.fixture(scope="session", autouse=True)
def _certificates_are_read_once() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        read_certificates_once(patch)
        yield


@pytest.fixture(scope="session", autouse=True)
def _installed_packages_are_read_once() -> Iterator[None]:
    """Every run of pytest in this process would read and parse what is said of each installed package."""
    found = importlib.metadata.distributions
    installed = tuple(found())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            importlib.metadata, "distributions", lambda **which: found(**which) if which else installed
        )
        for name in ("entry_points", "files", "metadata"):
            read = getattr(importlib.metadata.Distribution, name).fget
            patch.setattr(importlib.metadata.Distribution, name, property(functools.lru_cache(256)(read)))
        yield


@pytest.fixture(scope="session", autouse=True)
def _prices_are_looked_up_once() -> Iterator[None]:
    """Every run in this process would ask the price list for each model anew; it has other prices by day."""
    look_up = Prices._listed
    known: dict[object, RateCard | None] = {}

    def listed(prices: Prices, rate: Rate, context: Mapping[str, str], size: int) -> RateCard | None:
        asked = (rate, *context.items(), size, prices.at.date())
        if asked not in known:
            known[asked] = look_up(prices, rate, context, size)
        return known[asked]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Prices, "_listed", listed)
        yield


@pytest.fixture(scope="session", autouse=True)
def _a_text_is_counted_once() -> Iterator[None]:
    """Every run in this process would count the texts of its agents anew."""
    count = functools.lru_cache(5_000)(functools.partial(CtokCounter.count, CtokCounter.__new__(CtokCounter)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(CtokCounter, "count", lambda _, text, family: count(text, family))
        yield


@pytest.fixture
def api() -> Iterator[MessagesApi]:
    """A server of the Messages API that says back what it is asked."""
    with MessagesApi(echo) as server:
        yield server
