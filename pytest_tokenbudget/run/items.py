"""Which scenario a test or a fixture is: its name, its place, its settings, its cassette."""

from __future__ import annotations

import inspect
import os
import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pytest_tokenbudget.errors import CassetteError, SettingsError
from pytest_tokenbudget.model import ScenarioId
from pytest_tokenbudget.reports.build import Place
from pytest_tokenbudget.reports.document import Recorder
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

_SAMPLE = re.compile(rf"\[{SAMPLE}\d+\]$|-{SAMPLE}\d+(?=\]$)|(?<=\[){SAMPLE}\d+-")


_XUNIT = re.compile(r"_(?:xunit|unittest)_(\w+?)_fixture(?:_\w+)?")
"""The fixture that pytest makes of a `setup_method` or `setUpClass`."""


def check_recording(config: pytest.Config) -> None:
    """Raise SettingsError where pytest-recording is told to keep out: nothing would be metered."""
    if config.getoption("--disable-recording", False):
        raise SettingsError(
            "--disable-recording sends the model calls of @pytest.mark.vcr tests past their cassettes, where "
            "nobody can meter them. Leave it out, or leave out --token-budget."
        )


def is_marked(item: pytest.Item) -> bool:
    """Whether a test says that it is a scenario."""
    return item.get_closest_marker(MARKER) is not None


def scenario_of(item: pytest.Item, files: SettingsFiles) -> Scenario:
    """The scenario that a test is. Raises SettingsError for a marker or a file that cannot be used.

    A marked test has a cassette of its own, unless pytest-recording gives it one.
    """
    place, suite = place_of(item), files.of(item.path.parent)
    unmarked = None if is_marked(item) else _path(item)
    return Scenario(place, _settings(item, suite, place.id), suite, _cassette(item), unmarked=unmarked)


def is_excluded(item: pytest.Item, files: SettingsFiles) -> bool:
    """Return whether a test is not judged; not for settings that cannot be used, which its setup tells."""
    try:
        return _settings(item, files.of(item.path.parent), item.nodeid).exclude is not None
    except SettingsError:
        return False


class Exclusions:
    """Know which patterns of `exclude` match a collected test, and warn of those that match none."""

    def __init__(self) -> None:
        self._tests: list[tuple[Path, str]] = []

    def add(self, item: pytest.Item) -> None:
        """Note a test that was collected, whether it is to run or not."""
        self._tests.append((item.path, _name(item)))

    def idle(self, patterns: Iterable[NodePattern], session: pytest.Session) -> Iterator[str]:
        """Yield a sentence for each pattern that matches nothing of what was collected as a whole."""
        asked = [Path(session.config.invocation_params.dir, argument) for argument in session.config.args]
        for pattern in sorted(patterns, key=lambda pattern: (pattern.folder, pattern.text)):
            stem = pattern.stem
            whole = not stem.exists() or any(stem.is_relative_to(Path(path).resolve()) for path in asked)
            if whole and not any(pattern.matches(path, name) for path, name in self._tests):
                yield (
                    f'{pattern.folder / "pyproject.toml"}, [tool.tokenbudget]: exclude: "{pattern.text}" '
                    "matches no test. Write node ids as pytest shows them, relative to this file."
                )


def _name(item: pytest.Item) -> str:
    """Return the node id of a test without its file."""
    return _node_id(item).partition("::")[2]


def _cassette(item: pytest.Item) -> Path | None:
    return _path(item) if is_marked(item) and not _is_recorded_by_another(item) else None


def _path(item: pytest.Item) -> Path:
    test_class = getattr(item, "cls", None)
    return cassette_path(item.path, without_sample(item.name), test_class.__name__ if test_class else None)


class Cassettes:
    """Whose they are: what cannot stand in a file's name, and outer classes, are left out of a cassette's."""

    def __init__(self, items: Iterable[pytest.Item] = ()) -> None:
        self._owners: dict[Path, dict[str, None]] = defaultdict(dict)
        for item in items:
            if path := _cassette(item):
                self._owners[path][place_of(item).id] = None

    def check(self, scenario: Scenario) -> None:
        """Raise CassetteError where another test would be recorded into the same file."""
        owners = self._owners.get(scenario.cassette, {}) if scenario.cassette else {}
        if len(owners) > 1:
            raise CassetteError(
                f"{' and '.join(owners)} would share one cassette, {scenario.cassette}: each would replay "
                "what the other recorded. Give them names, or parameter ids, of other letters or digits."
            )


def teardown_of(scenario: Scenario) -> Scenario:
    """The account of what a test's teardown calls."""
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
    """The scenario that a fixture is, for the test, class, module, ... and the parameters that it is set up
    for; `own`: with a cassette of its own.

    It is placed where the fixture is defined, or, where that is outside of the suite, where it is used.
    """
    root, node = request.config.rootpath, request.node
    function = inspect.unwrap(fixturedef.func)
    code = getattr(function, "__code__", None)
    path = Path(code.co_filename) if code else root / "conftest.py"
    line = code.co_firstlineno if code else 1
    if not path.is_relative_to(root):
        path, line = (node.path if node.path.is_file() else node.path / "conftest.py"), 1
    file = _from(root, path)
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
    """Return which test an item is, and where it stands; all samples of a test are one."""
    line = item.location[1]
    recorder: Recorder | None = "pytest-recording" if _is_recorded_by_another(item) else None
    file = _from(item.config.rootpath, item.path)
    return Place(without_sample(_node_id(item)), file, (line or 0) + 1, recorder)


def _from(root: Path, path: Path) -> str:
    """Return a path as it is named from `root`, which need not hold it (pytest's `-c other/file.ini`)."""
    return Path(os.path.relpath(path, root)).as_posix()


def _node_id(node: Any) -> str:
    """Return the node id of a test or what holds it; for a file outside of the root, as it were inside.

    pytest itself names such files by the wrong folder, or not at all.
    """
    root = node.config.rootpath
    if node.path.is_relative_to(root):
        return str(node.nodeid)
    names = [one.name for one in node.listchain() if isinstance(one, pytest.Class | pytest.Item)]
    return "::".join([_from(root, node.path), *names])


def without_sample(text: str) -> str:
    """A node id or a name without the parameter of a sample: all samples are one scenario."""
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
    """Whether pytest-recording opens this test's cassette, at the very path that would be ours."""
    recording = item.config.pluginmanager.has_plugin("recording")
    return recording and item.get_closest_marker("vcr") is not None
