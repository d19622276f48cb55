"""Add the options, the marker and the fixture to pytest, and decide whether this run has anything to do.

This module is light on purpose: every pytest run on a machine that has the plugin imports it.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import tempfile
from collections.abc import Generator, Iterator, Sequence
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import pytest

from pytest_tokenbudget.errors import TokenBudgetError
from pytest_tokenbudget.settings import (
    MARKER,
    Options,
    Plan,
    RecordMode,
    parse_log,
    parse_reports,
    parse_spend,
)

if TYPE_CHECKING:
    from pytest_tokenbudget.replay.proxy import Access

_MARKER_HELP = (
    "token_budget(*, tolerance=None, max_prompt_tokens=None, max_output_tokens=None, "
    "max_total_tokens=None, max_cost_usd=None, max_turns=None, runs_per_month=None, batchable=False): "
    "a scenario, a test that drives an agent: replayed from its cassette, and judged against its baseline "
    "under --token-budget."
)
OPTIONS = pytest.StashKey[Options]()
STOOD_IN = pytest.StashKey[bool]()
"""Whether a stand-in for a credential was set, so that a client may hold it."""
FOLDER = pytest.StashKey[Path]()
"""The folder that all processes of the run share, kept by the process that made it."""
_WORKER_FOLDER = "token_budget_folder"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options. They share one prefix; each is a flag or takes `=VALUE`."""
    group = parser.getgroup("tokenbudget", "token budgets")
    group.addoption("--token-budget", action="store_true", help="Measure scenarios and judge them.")
    _add_update(group)
    group.addoption(
        "--token-budget-record",
        choices=[str(mode) for mode in RecordMode],
        default=str(RecordMode.NONE),
        metavar="MODE",
        help="Record real calls: none (default), once (what has no cassette), changed (what is stale or "
        "changed), all. Needs a key.",
    )
    group.addoption("--token-budget-live", action="store_true", help="Make real calls and record nothing.")
    group.addoption(
        "--token-budget-samples", type=int, default=1, metavar="N", help="Live runs of each scenario."
    )
    group.addoption(
        "--token-budget-count",
        choices=["offline", "api"],
        default="offline",
        help="How changed requests are counted: offline (default), or by the free count_tokens endpoint.",
    )
    group.addoption(
        "--token-budget-max-spend", metavar="USD", help="Stop recording and live runs before they pass it."
    )
    group.addoption(
        "--token-budget-report",
        action="append",
        default=[],
        metavar="TYPE:DEST",
        help="Write a report: json:FILE, markdown:FILE or html:FILE; repeatable.",
    )
    group.addoption(
        "--token-budget-log", metavar="FILE", help="Add one JSON line a metered scenario to a file."
    )
    group.addoption(
        "--token-budget-stability",
        action="store_true",
        help="Replay each scenario once more in another process, home and clock, and compare the prompts.",
    )
    group.addoption("--token-budget-prompts", help=argparse.SUPPRESS)
    group.addoption("--token-budget-plan", metavar="MODE:FILE", help=argparse.SUPPRESS)
    group.addoption("--token-budget-collected", help=argparse.SUPPRESS)
    group.addoption("--token-budget-disable", action="store_true", help="Do nothing at all.")


def _add_update(group: pytest.OptionGroup) -> None:
    group.addoption(
        "--token-budget-update",
        action="store_true",
        help="Write the baselines of what failed or improved, and of all tests that are named by node id; "
        "nothing is pruned.",
    )
    group.addoption(
        "--token-budget-update-all", action="store_true", help="Write the baselines of all that changed."
    )
    group.addoption(
        "--token-budget-migrate",
        action="store_true",
        help="Write baselines of version 1 that still hold as version 2.",
    )


@pytest.hookimpl(tryfirst=True)
def pytest_load_initial_conftests(early_config: pytest.Config) -> None:
    """Let a judging replay need no key, from before the first conftest to its end."""
    _import_as_installed(early_config)
    given = early_config.known_args_namespace
    judges = given.token_budget or given.token_budget_update
    judges = judges or given.token_budget_update_all or given.token_budget_migrate
    calls = given.token_budget_live or given.token_budget_record != RecordMode.NONE
    records = getattr(given, "record_mode", None) not in (None, "none")  # of pytest-recording
    if judges and not (calls or records or given.token_budget_disable):
        stack = contextlib.ExitStack()
        early_config.add_cleanup(stack.close)
        stack.enter_context(_standing_in(early_config))


class _AsInstalled:
    """Find the modules of this package before pytest does.

    pytest rewrites the asserts of every module of a distribution that has a plugin. Here that gains nothing,
    and a fresh environment, such as that of a CI job, compiles some ninety modules anew for it: a third of
    a short run.
    """

    @staticmethod
    def find_spec(
        name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return how to load a module of this package; None leaves any other to the other finders."""
        return PathFinder.find_spec(name, path, target) if name.startswith("pytest_tokenbudget.") else None


def _import_as_installed(config: pytest.Config) -> None:
    sys.meta_path.insert(0, _AsInstalled)
    config.add_cleanup(lambda: sys.meta_path.remove(_AsInstalled))


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """Let a module of scenarios be imported without a key in a plain run, which replays them."""
    options = collector.config.stash.get(OPTIONS, None)
    if options is None or options.judge or options.calls or not _names_marker(collector):
        return (yield)
    with _standing_in(collector.config):
        return (yield)


def _names_marker(collector: pytest.Collector) -> bool:
    """Return whether a collector is a module whose text names the marker."""
    if not isinstance(collector, pytest.Module):
        return False
    try:
        return MARKER.encode() in collector.path.read_bytes()
    except OSError:
        return False


@contextlib.contextmanager
def _standing_in(config: pytest.Config) -> Iterator[None]:
    """Put stand-ins for the credentials that the user has not set into the environment."""
    from pytest_tokenbudget.replay.credentials import standing_in

    with standing_in(everywhere=True) as values:
        if values:
            config.stash[STOOD_IN] = True
        yield


def pytest_configure(config: pytest.Config) -> None:
    """Register the marker; activate the plugin if this run judges or makes real calls."""
    config.addinivalue_line("markers", _MARKER_HELP)
    if config.getoption("--token-budget-disable"):
        return
    try:
        options = _options(config)
    except TokenBudgetError as error:
        raise pytest.UsageError(f"{error}\n{error.more}") from None
    config.stash[OPTIONS] = options
    if options.judge or options.calls:
        _activate(config)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Activate the plugin if a scenario was collected: without --token-budget, it still replays."""
    if OPTIONS in config.stash and any(item.get_closest_marker(MARKER) for item in items):
        _activate(config)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Say that nothing was judged if the run was to judge and the plugin is disabled."""
    judges = config.getoption("--token-budget") or config.getoption("--token-budget-update")
    if judges and config.getoption("--token-budget-disable"):
        terminalreporter.write_line("token budgets: nothing is judged, for --token-budget-disable is given")


@pytest.fixture
def token_budget_proxy(request: pytest.FixtureRequest) -> Iterator[Access]:
    """Yield a loopback proxy for an agent in another process.

    Start the agent with the proxy's `environment` (a dict), or tell it the `url`. What the agent asks is
    replayed, recorded and judged together with what the test itself asks.
    """
    from pytest_tokenbudget.run import hooks

    with hooks.proxy(request) as proxy:
        yield proxy


def _activate(config: pytest.Config) -> None:
    from pytest_tokenbudget.run import hooks

    hooks.activate(config, config.stash[OPTIONS], stood_in=config.stash.get(STOOD_IN, False))


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Tell a worker of pytest-xdist which folder the processes of this run share."""
    if FOLDER in node.config.stash:
        node.workerinput[_WORKER_FOLDER] = str(node.config.stash[FOLDER])


def _prompts_folder(config: pytest.Config) -> Path | None:
    """Return the folder where a stability check keeps its prompts, or None if this run makes none."""
    given = config.getoption("--token-budget-prompts")
    if given:
        return Path(given)
    return _shared_folder(config) if config.getoption("--token-budget-stability") else None


def _purse(config: pytest.Config) -> Path | None:
    """Return the file that keeps what was spent, or None if no real calls are made."""
    records = config.getoption("--token-budget-record") != RecordMode.NONE
    if not (records or config.getoption("--token-budget-live")):
        return None
    return _shared_folder(config) / "purse.sqlite"


def _plan(config: pytest.Config) -> Plan | None:
    """Return where this run writes what a recording would call, or None if it is not asked to."""
    given = config.getoption("--token-budget-plan")
    if given is None:
        return None
    mode, _, path = given.partition(":")
    return Plan(RecordMode(mode), Path(path))


def _shared_folder(config: pytest.Config) -> Path:
    """Return the temporary folder of this run: the first process makes it, workers are told its name."""
    told = getattr(config, "workerinput", {}).get(_WORKER_FOLDER)
    if told is not None:
        return Path(told)
    if FOLDER not in config.stash:
        folder = tempfile.TemporaryDirectory(prefix="token-budget-")
        config.add_cleanup(folder.cleanup)
        config.stash[FOLDER] = Path(folder.name)
    return config.stash[FOLDER]


def _options(config: pytest.Config) -> Options:
    invocation = config.invocation_params.dir
    everything, live = config.getoption("--token-budget-update-all"), config.getoption("--token-budget-live")
    update = config.getoption("--token-budget-update") or everything
    migrate = config.getoption("--token-budget-migrate")
    options = Options(
        judge=config.getoption("--token-budget") or update or migrate or live,
        update=update,
        update_all=everything or any("::" in argument for argument in config.args),
        migrate=migrate,
        record=RecordMode(config.getoption("--token-budget-record")),
        live=live,
        samples=config.getoption("--token-budget-samples"),
        count=config.getoption("--token-budget-count"),
        max_spend=parse_spend(config.getoption("--token-budget-max-spend")),
        purse=_purse(config),
        reports=parse_reports(config.getoption("--token-budget-report"), invocation),
        log=parse_log(config.getoption("--token-budget-log"), invocation),
        plan=_plan(config),
        stability=config.getoption("--token-budget-stability"),
        prompts=_prompts_folder(config),
        collected=Path(collected) if (collected := config.getoption("--token-budget-collected")) else None,
    )
    options.check()
    return options
