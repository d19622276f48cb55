"""Find which scenario a test or a fixture is: its name, its place, its settings, its cassette."""

from __future__ import annotations

import contextlib
import inspect
import os
import re
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest

from pytest_tokenbudget.budget.accepted import AcceptedCassette, accepted_path, read_accepted
from pytest_tokenbudget.budget.baselines import baseline_path, read_baselines, recording_digest
from pytest_tokenbudget.budget.changes import PATTERN, module_of
from pytest_tokenbudget.errors import CassetteError, SettingsError, TokenBudgetError
from pytest_tokenbudget.model import ScenarioId
from pytest_tokenbudget.replay.cassette_file import module_of_cassette, read_cassette
from pytest_tokenbudget.replay.traffic import Traffic
from pytest_tokenbudget.reports.build import Place
from pytest_tokenbudget.reports.document import FormerlyEntry, MoveEntry, Recorder
from pytest_tokenbudget.repository.baseline_history import ACCEPTED, files
from pytest_tokenbudget.run.accepting import accepted_in, digest_of_turns, turn_indexes
from pytest_tokenbudget.run.results import Collected, is_of_fixture
from pytest_tokenbudget.run.scenario import Kind, Scenario, cassette_path, teardown_path
from pytest_tokenbudget.settings import (
    MARKER,
    SAMPLE,
    NodePattern,
    ScenarioSettings,
    Settings,
    SettingsFiles,
    override,
)
from pytest_tokenbudget.wire.exchange import Exchange, Request
from pytest_tokenbudget.wire.requests import meaning
from pytest_tokenbudget.wording import listed

_SAMPLE = re.compile(rf"\[{SAMPLE}\d+\]$|-{SAMPLE}\d+(?=\]$)|(?<=\[){SAMPLE}\d+-")


_XUNIT = re.compile(r"_(?:xunit|unittest)_(\w+?)_fixture(?:_\w+)?")
"""The fixture that pytest makes of a `setup_method` or `setUpClass`."""


def check_recording(config: pytest.Config) -> None:
    """Raise SettingsError if pytest-recording is told to keep out: nothing would be metered."""
    if config.getoption("--disable-recording", False):
        raise SettingsError(
            "--disable-recording sends the model calls of @pytest.mark.vcr tests past their cassettes, where "
            "nobody can meter them. Leave it out, or leave out --token-budget."
        )


def is_marked(item: pytest.Item) -> bool:
    """Return whether a test is marked as a scenario."""
    return item.get_closest_marker(MARKER) is not None


def scenario_of(item: pytest.Item, files: SettingsFiles) -> Scenario:
    """Return the scenario that a test is.

    A marked test has a cassette of its own, unless pytest-recording gives it one. Raises SettingsError for a
    marker or a file that cannot be used.
    """
    place, suite = place_of(item), files.of(item.path.parent)
    unmarked = None if is_marked(item) else own_cassette(item)
    return Scenario(place, _settings(item, suite, place.id), suite, _cassette(item), unmarked=unmarked)


def is_excluded(item: pytest.Item, files: SettingsFiles) -> bool:
    """Return whether a test is not judged; False for settings that cannot be used, which its setup tells."""
    try:
        return _settings(item, files.of(item.path.parent), item.nodeid).exclude is not None
    except SettingsError:
        return False


class CollectedTests:
    """Knows what there is: all tests that were collected, whether they are to run or not, and where."""

    def __init__(self) -> None:
        self._tests: list[tuple[Path, str]] = []
        self._ids: dict[str, None] = {}
        self._cassettes: dict[Path, None] = {}
        self._fixtures: set[str] = set()
        self._folders: dict[Path, None] = {}
        self._modules: dict[str, None] = {}
        self._unfinished: set[str] = set()
        self._skipped: set[str] = set()

    def add(self, item: pytest.Item) -> None:
        """Note a test."""
        self._tests.append((item.path, _name(item)))
        self._ids[place_of(item).id] = None
        cassette = own_cassette(item)
        self._cassettes |= dict.fromkeys((cassette, teardown_path(cassette)))
        self._fixtures.update(getattr(item, "fixturenames", ()))

    def enter(self, collector: pytest.Collector) -> None:
        """Note a folder that is looked through."""
        if isinstance(collector, pytest.Directory):
            self._folders[collector.path] = None

    def end(self, report: pytest.CollectReport) -> None:
        """Note a file that was collected, whose tests are skipped as a whole, or cannot be collected."""
        if report.passed and report.nodeid.endswith(".py"):
            self._modules[report.nodeid] = None
        if report.skipped:
            self._skipped.add(report.nodeid)
        elif report.failed:
            self._unfinished.add(report.nodeid)

    def told(self, session: pytest.Session) -> Collected:
        """Return in builtins what was collected, once pytest has chosen what is to run."""
        config, root, sources = session.config, session.config.rootpath, pytest.Config.ArgsSource
        is_elsewhere = config.invocation_params.dir != root
        asked = [argument.partition("::") for argument in config.args]
        paths = {_absolute(config, path): bool(name) for path, _, name in asked}
        folders = {*self._folders, *(path.parent for path in paths if path.is_file())}
        selected = {place_of(item).id for item in session.items}
        left = {ScenarioId(test).file for test in self._ids if test not in selected}
        return {
            "root": str(root),
            "tests": list(self._ids),
            "selected": sorted(selected),
            "fixtures": sorted({_XUNIT.sub(r"\1", name) for name in self._fixtures}),
            "cassettes": [from_root(root, path) for path in self._cassettes],
            "modules": list(self._modules),
            "folders": sorted(from_root(root, folder) for folder in folders),
            "asked": sorted(from_root(root, path) for path in paths),
            "partly": sorted({*left, *(from_root(root, path) for path, is_part in paths.items() if is_part)}),
            "unfinished": sorted(self._unfinished),
            "skipped": sorted(self._skipped),
            "is_named": config.args_source is sources.ARGS
            or (config.args_source is sources.INVOCATION_DIR and is_elsewhere),
            "is_partial": bool(config.getoption("lf", False) or config.getoption("stepwise", False)),
        }

    def idle(self, patterns: Iterable[NodePattern], session: pytest.Session) -> Iterator[str]:
        """Yield a sentence for each pattern that matches nothing of what was collected as a whole."""
        asked = [_absolute(session.config, argument) for argument in session.config.args]
        for pattern in sorted(patterns, key=lambda pattern: (pattern.folder, pattern.text)):
            stem = pattern.stem
            whole = not stem.exists() or any(map(stem.is_relative_to, asked))
            if whole and not any(pattern.matches(path, name) for path, name in self._tests):
                yield (
                    f'{pattern.folder / "pyproject.toml"}, [tool.tokenbudget]: exclude: "{pattern.text}" '
                    "matches no test. Write node ids as pytest shows them, relative to this file."
                )


def _name(item: pytest.Item) -> str:
    """Return the node id of a test without its file."""
    return _node_id(item).partition("::")[2]


def _cassette(item: pytest.Item) -> Path | None:
    return own_cassette(item) if is_marked(item) and not _is_recorded_by_another(item) else None


def own_cassette(item: pytest.Item) -> Path:
    """Return where the cassette of a test is, or would be if it were marked."""
    test_class = getattr(item, "cls", None)
    return cassette_path(item.path, without_sample(item.name), test_class.__name__ if test_class else None)


class Cassettes:
    """Knows which test each cassette belongs to.

    What cannot stand in a file's name, and outer classes, are left out of a cassette's name.
    """

    def __init__(self, items: Iterable[pytest.Item] = (), partly: Collection[Path] = ()) -> None:
        """Learn the cassettes of all tests; of the modules in `partly`, not all tests were collected."""
        self._owners: dict[Path, dict[str, None]] = defaultdict(dict)
        self._others: set[Path] = set()  # of tests that pytest-recording records
        self._partly = partly
        self._first: dict[Path, frozenset[str]] = {}  # meanings: the first request of a cassette
        self._left: list[tuple[str, str | None]] | None = None  # baselines whose test is gone
        self._accepted: list[AcceptedCassette] | None = None  # below the root
        for item in items:
            if path := _cassette(item):
                self._owners[path][place_of(item).id] = None
            elif _is_recorded_by_another(item):
                self._others.add(own_cassette(item))

    def check(self, scenario: Scenario) -> None:
        """Raise CassetteError if another test would be recorded into the same file."""
        owners = self._owners.get(scenario.cassette, {}) if scenario.cassette else {}
        if len(owners) > 1:
            raise CassetteError(
                f"{' and '.join(owners)} would share one cassette, {scenario.cassette}: each would replay "
                "what the other recorded. Give them names, or parameter ids, of other letters or digits."
            )

    def renamed(self, scenario: Scenario, root: Path) -> FormerlyEntry | None:
        """Return what a scenario without a cassette finds by what it asks, and what takes that along.

        That are cassettes of no test any more: one that was renamed or moved asks what exactly one holds.
        """
        ledger = scenario.lacking
        path = scenario.cassette_of(ledger) if ledger else None
        if ledger is None or ledger.first is None or path is None:
            return None
        why = "its test is gone"
        left = [old for _, old in files(root, "**/cassettes/*/*.yaml") if self._is_orphan(old)]
        what, known = self._asking(ledger.first, left, root)
        if not known and ledger is not scenario.own:
            why = "no Python file names it"
            what, known = self._asking(ledger.first, [*_unnamed(path, root)], root)
        if len(known) > 1:  # tests with parameters may well begin alike
            same = [old for old in known if _parameters(old) == _parameters(path)]
            known = same if len(same) == 1 else known
        if not known:
            return None
        names = [from_root(root, old) for old in known]
        recordings = {old: _digest(Traffic(read_cassette(old)).exchanges) for old in known}
        if len(known) > 1:
            found = _formerly(f"{listed(names)} ask {what}, and their tests are gone")
        else:
            (old,) = known
            alike = self._renamed_alike(old, path)
            lacking = {one for one in self._known if not one.exists()} - {path, *alike.values()}
            measured = _measured_on(recordings[old], scenario, root)
            text = f"{names[0]} asks {what}, and {why}"
            found = _moves(old, path, text, measured, scenario, root, alike=alike, prunes=not lacking)
        baselines = self._left_of({*recordings.values()}, root)
        return {**found, "cassettes": names, "baselines": baselines}

    def _asking(self, first: Request, left: Sequence[Path], root: Path) -> tuple[str, list[Path]]:
        """Return what cassettes ask first, in words, and which do: a request itself, else its question."""
        for what, said in (("the same", meaning(first)), ("the same question", _question(first))):
            if known := [old for old in left if said in self._first_of(old, root)]:
                return what, known
        return "", []

    def _renamed_alike(self, old: Path, new: Path) -> dict[Path, Path]:
        """Return the other cassettes of a function with parameters that was renamed, by their old path."""
        was, now = old.stem.partition("[")[0], new.stem.partition("[")[0]
        if was == now or not _parameters(old):
            return {}
        found = {
            one: new.with_name(one.name.replace(was, now, 1))
            for one in sorted(old.parent.glob(f"*{old.suffix}"))
            if one.stem.partition("[")[0] == was and one != old and self._is_orphan(one)
        }
        return {one: to for one, to in found.items() if to in self._known and not to.exists()}

    @cached_property
    def _known(self) -> set[Path]:
        """The cassettes that the tests of this run have, or would have."""
        return {*self._owners, *self._others}

    def _first_of(self, path: Path, root: Path) -> frozenset[str]:
        if path not in self._first:
            self._first[path] = _first_requests(path, lambda: self._accepted_below(root))
        return self._first[path]

    def _accepted_below(self, root: Path) -> Sequence[AcceptedCassette]:
        """Return what is accepted of all cassettes. Raises BaselineError."""
        if self._accepted is None:
            committed = [read_accepted(file) for _, file in files(root, ACCEPTED)]
            self._accepted = [one for accepted in committed for turns in accepted.values() for one in turns]
        return self._accepted

    def baseline_elsewhere(self, scenario: Scenario, root: Path) -> FormerlyEntry | None:
        """Return under which names baselines of a scenario's recording stand whose tests are gone; else None.

        Where that is one, it says what to do.
        """
        if len(scenario.ledgers) != 1:
            return None
        baselines = self._left_of({scenario.ledgers[0].recording.made_once(digest_of_turns)}, root)
        if not baselines:
            return None
        names = [ScenarioId(one) for one in baselines]
        were = [f"{one.name} in {from_root(root, baseline_path(root / one.file))}" for one in names]
        if len(were) > 1:
            text = (
                f"the baselines of {listed(were)} were measured on this recording, and their tests are gone"
            )
            return _formerly(text, baselines=baselines)
        text = f"the baseline of {were[0]} was measured on this recording, and its test is gone"
        update = ScenarioId(scenario.place.id).argument
        return _formerly(text, baselines=baselines, update=update, prune=True)

    def _left_of(self, recordings: Collection[str], root: Path) -> list[str]:
        """Return the ids of the baselines of these recordings whose tests are gone."""
        if self._left is None:
            self._left = [*_without_test(root)]
        return [name for name, recording in self._left if recording in recordings]

    def _is_orphan(self, path: Path) -> bool:
        """Return whether no test or fixture is left that a cassette is of: by its name, that of a function.

        If the function was collected with other parameters, those of the cassette are gone.
        """
        function, owners, module = _function(path), self._known, module_of_cassette(path)
        if path.stem.startswith("fixture_"):
            return not is_of_fixture(path.stem, _functions(module))
        if path in owners or not function.startswith("test"):
            return False
        if any(owner.parent == path.parent and _function(owner) == function for owner in owners):
            return module not in self._partly
        return not module.is_file() or not re.search(
            rf"\bdef {re.escape(function)}\b", module.read_text("utf-8", "replace")
        )


def _function(cassette: Path) -> str:
    return cassette.stem.partition("[")[0].rpartition(".")[2]


def _parameters(cassette: Path) -> str:
    return cassette.stem.partition("[")[2]


def _without_test(root: Path) -> Iterator[tuple[str, str | None]]:
    """Yield the id and the recording of each baseline below `root` whose test is gone."""
    for shown, path in files(root, PATTERN):
        module = path.parent.parent / f"{path.stem}.py"
        with contextlib.suppress(TokenBudgetError):
            for name, baseline in read_baselines(path).items():
                if not _defines(module, name):
                    yield f"{module_of(shown)}::{name}", baseline.recording


def _defines(module: Path, name: str) -> bool:
    """Return whether a module still has the test, or the fixture, of a baseline."""
    scenario = ScenarioId(f"{module.name}::{name}")
    if scenario.kind == "fixture":
        return is_of_fixture(name.replace(" ", "_"), _functions(module))
    function = name.partition("[")[0].rpartition("::")[2].rpartition(" ")[2]
    return module.is_file() and function in _functions(module)


def _functions(module: Path) -> list[str]:
    """Return the names of tests and fixtures that a module may have: of functions, and as decorators say."""
    text = module.read_text("utf-8", "replace") if module.is_file() else ""
    return re.findall(r"(?:\bdef |\bname=[\"'])(\w+)", text)


def _unnamed(missing: Path, root: Path) -> Iterator[Path]:
    """Yield what may be the old file of a cassette that is not there: what no Python file names.

    It lies beside it, or elsewhere under the same name.
    """
    found = [path for _, path in files(root, f"**/*{missing.suffix}")]
    beside = [path for path in found if path.parent == missing.parent]
    elsewhere = [path for path in found if path.name == missing.name and path not in beside]
    python = [path for _, path in files(root, "**/*.py")] if beside or elsewhere else []
    texts = {path: path.read_text("utf-8", "replace") for path in python}
    for path in beside:
        function, stem = re.escape(_function(path)), re.escape(path.stem)
        name = (
            rf"\b{function}\b"
            if function.startswith("test")
            else rf"\b{stem}{re.escape(path.suffix)}|\b{stem}[\"']"
        )
        if not any(re.search(name, text) for text in texts.values()):
            yield path
    for path in elsewhere:
        if not any(_names(text, file, path, missing) for file, text in texts.items()):
            yield path


def _names(text: str, file: Path, path: Path, missing: Path) -> bool:
    """Return whether the text of a Python file may name `path`, rather than the file of its name, `missing`.

    The folder before the name tells. Where none stands there, one that lies around the Python file, or that
    the text names anywhere, may be meant.
    """
    alike = 1
    while path.parts[-alike - 1] == missing.parts[-alike - 1]:
        alike += 1
    inner, around = (*path.parts[-alike:-1], path.stem), Path(*path.parts[:-alike])
    name = r"\W+".join(map(re.escape, inner))
    folders = [match[1] for match in re.finditer(rf"(?:([\w.-]+)/)?\b{name}\b", text)]
    is_near = file.is_relative_to(around) or re.search(rf"\b{re.escape(around.name)}\b", text)
    return around.name in folders or bool(None in folders and is_near)


def _first_requests(path: Path, accepted: Callable[[], Sequence[AcceptedCassette]]) -> frozenset[str]:
    """Return the meaning and the question of the first request of a cassette, as recorded and as accepted.

    Empty for a cassette that cannot be read.
    """
    try:
        exchanges = Traffic(read_cassette(path)).exchanges
        first = exchanges[:1]
        was = accepted_in(accepted(), exchanges).get(0)
    except (TokenBudgetError, OSError):
        return frozenset()
    requests = [exchange.request for exchange in first]
    either = [request for request in (*requests, was and was.request) if request]
    return frozenset(said for request in either for said in (meaning(request), _question(request)))


def _question(request: Request) -> str:
    """Return what its messages say, whatever its instructions and tools are."""
    return " ".join(["messages", *(block.digest for block in request.prompt.level("messages"))])


def _moves(
    old: Path,
    new: Path,
    text: str,
    measured: tuple[Path, str, str] | None,
    scenario: Scenario,
    root: Path,
    *,
    alike: Mapping[Path, Path],
    prunes: bool,
) -> FormerlyEntry:
    """Return where the files of a test are that was renamed or moved, and what takes them along.

    `text` says why the cassette `old` may be that of `new`, `measured` which baseline is its. `alike` are
    the cassettes of the same function with other parameters, old path to new path. `prunes`: no other test
    lacks a cassette, which pruning might take for one that has no test any more.
    """
    moves = [(old, new), *alike.items()]
    if measured:
        module, name, more = measured
        file = from_root(root, baseline_path(module))
        text += f"; its baseline is {name}{more} in {file}"
    is_known = measured is not None and (root / scenario.place.file, scenario.place.name) == measured[:2]
    if measured and not measured[0].is_file() and measured[1] == scenario.place.name:
        budgets = [(baseline_path(measured[0]), baseline_path(root / scenario.place.file))]
        budgets += [(accepted_path(one), accepted_path(other)) for one, other in budgets]
        if module_of_cassette(old) == measured[0] and not new.parent.exists():
            moves = [(old.parent, new.parent)]
        budgets = [(one, other) for one, other in budgets if one.is_file() and not other.exists()]
        is_known, moves = bool(budgets), [*moves, *budgets]
    missing = dict.fromkeys(to.parent for _, to in moves if not to.parent.is_dir())
    argument = ScenarioId(scenario.place.id).argument
    return _formerly(
        text,
        folders=[from_root(root, folder) for folder in missing],
        moves=[{"old": from_root(root, one), "new": from_root(root, other)} for one, other in moves],
        update=None if is_known else argument.partition("[")[0] if alike else argument,
        prune=prunes and not is_known,
    )


def _formerly(
    text: str,
    *,
    baselines: Sequence[str] = (),
    folders: Sequence[str] = (),
    moves: Sequence[MoveEntry] = (),
    update: str | None = None,
    prune: bool = False,
) -> FormerlyEntry:
    return {
        "text": text,
        "cassettes": [],
        "baselines": [*baselines],
        "folders": [*folders],
        "moves": [*moves],
        "update": update,
        "prune": prune,
    }


def _digest(exchanges: Sequence[Exchange]) -> str:
    return recording_digest(exchanges[index] for index in turn_indexes(exchanges))


def _measured_on(recording: str, scenario: Scenario, root: Path) -> tuple[Path, str, str] | None:
    """Return the module, the name and the acceptance, in words, of a recording's baseline; None without.

    Of several it is that of the scenario itself, else one whose test is gone.
    """
    own, known = (root / scenario.place.file, scenario.place.name), []
    for _, path in files(root, PATTERN):
        module = path.parent.parent / f"{path.stem}.py"
        with contextlib.suppress(TokenBudgetError):
            for name, baseline in read_baselines(path).items():
                more = " with accepted requests" if baseline.accepted else ""
                if baseline.recording == recording:
                    known.append(((module, name) != own, _defines(module, name), (module, name, more)))
    return min(known)[-1] if known else None


def teardown_of(scenario: Scenario) -> Scenario:
    """Return the scenario of what a test's teardown calls."""
    of = scenario.place
    place = Place(str(ScenarioId.of_teardown(of.file, of.name)), of.file, of.line)
    cassette = scenario.cassette and teardown_path(scenario.cassette)
    return Scenario(place, scenario.settings, scenario.suite, cassette, "teardown")


def fixture_scenario(
    fixturedef: pytest.FixtureDef[Any],
    request: pytest.FixtureRequest,
    files: SettingsFiles,
    parameters: Collection[int],
    *,
    own: bool,
) -> Scenario:
    """Return the scenario that a fixture is, with a cassette of its own if `own`.

    It is one for each test, class, module, ... and each set of parameters that the fixture is set up for. It
    is placed where the fixture is defined, or if that is outside of the suite, where it is used.
    """
    root, node = request.config.rootpath, request.node
    function = inspect.unwrap(fixturedef.func)
    code = getattr(function, "__code__", None)
    path = Path(code.co_filename) if code else root / "conftest.py"
    line = code.co_firstlineno if code else 1
    if not path.is_relative_to(root):
        path, line = (node.path if node.path.is_file() else node.path / "conftest.py"), 1
    file = from_root(root, path)
    name = _XUNIT.sub(r"\1", fixturedef.argname)
    if parameters:
        name += f"[{'-'.join(map(str, parameters))}]"
    node_id = _node_id(node)
    owner = None if node_id in ("", file) else without_sample(node_id)
    scenario = ScenarioId.of_fixture(file, name, owner)
    cassette = cassette_path(path, scenario.name.replace(" ", "_")) if own else None
    kind: Kind = "fixture" if fixturedef.scope == "function" else "wider fixture"
    suite = files.of(path.parent)
    return Scenario(Place(str(scenario), file, line), suite.scenario, suite, cassette, kind)


def place_of(item: pytest.Item) -> Place:
    """Return the id and place of the test that an item is; all samples of a test are one."""
    line = item.location[1]
    recorder: Recorder | None = "pytest-recording" if _is_recorded_by_another(item) else None
    file = from_root(item.config.rootpath, item.path)
    return Place(without_sample(_node_id(item)), file, (line or 0) + 1, recorder)


def _absolute(config: pytest.Config, argument: str) -> Path:
    """Return the absolute path of an argument of pytest."""
    return Path(os.path.normpath(config.invocation_params.dir / argument))


def from_root(root: Path, path: Path) -> str:
    """Return a path as it is named from `root`, which need not hold it (pytest's `-c other/file.ini`)."""
    return Path(os.path.relpath(path, root)).as_posix()


def _node_id(node: Any) -> str:
    """Return the node id of a test or of what holds it; for a file outside of the root, as if it were inside.

    pytest itself names such files by the wrong folder, or not at all.
    """
    root = node.config.rootpath
    if node.path.is_relative_to(root):
        return str(node.nodeid)
    names = [one.name for one in node.listchain() if isinstance(one, pytest.Class | pytest.Item)]
    return "::".join([from_root(root, node.path), *names])


def without_sample(text: str) -> str:
    """Return a node id or a name without the parameter of a sample: all samples are one scenario."""
    return _SAMPLE.sub("", text)


def _settings(item: pytest.Item, settings: Settings, where: str) -> ScenarioSettings:
    found = settings.scenario
    for marker in reversed(list(item.iter_markers(MARKER))):
        if marker.args:
            raise SettingsError(
                f"{where}: @pytest.mark.{MARKER} takes keywords only, not {marker.args[0]!r}. "
                f'Write, for example, @pytest.mark.{MARKER}(tolerance="10%").'
            )
        found = override(found, marker.kwargs, f"{where}: @pytest.mark.{MARKER}")
    pattern = next((one for one in settings.exclude if one.matches(item.path, _name(item))), None)
    if pattern is None or found.exclude is not None:
        return found
    return replace(found, exclude=f'exclude = ["{pattern.text}"]')


def _is_recorded_by_another(item: pytest.Item) -> bool:
    """Return whether pytest-recording opens this test's cassette, at the path that ours would have."""
    recording = item.config.pluginmanager.has_plugin("recording")
    return recording and item.get_closest_marker("vcr") is not None
