"""Compare what is committed with what was: baselines raised, lowered, added, renamed; looser limits.

Commit by commit, the changes make one series for each scenario, across renamed tests and moved files. History
holds thousands of versions of baseline files that are mostly equal: `VersionReader` reads them fast. Limits
are in the settings and in the markers of tests. Of markers, only literal arguments are read; no code is run.
What pytest itself is told to run is in its own settings.
"""

from __future__ import annotations

import ast
import re
import shlex
import tomllib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from configparser import Error as IniError
from configparser import RawConfigParser
from dataclasses import dataclass, field
from decimal import Decimal
from enum import StrEnum
from itertools import pairwise
from types import MappingProxyType
from typing import TypeVar

from pytest_tokenbudget.budget.baselines import REQUIRED, Baseline, parse_baselines, usages
from pytest_tokenbudget.budget.verdict import CostOf
from pytest_tokenbudget.errors import BaselineError
from pytest_tokenbudget.metering.cache_split import as_written, same_start
from pytest_tokenbudget.model import Rate, Tokens, Usage
from pytest_tokenbudget.settings import DEFAULTS, MARKER, Tolerance, parse_tolerances

PATTERN = "**/token_budgets/*.yaml"
"""The glob of baseline files below any folder."""

T = TypeVar("T")
Baselines = Mapping[str, Usage]
"""The usage of each baseline, by scenario id; for one file, by scenario name."""
Recordings = tuple[Mapping[str, str | None], Mapping[str, str | None]]
"""The digests of the recordings that two sets of baselines were measured on, by scenario id."""


class Matched(StrEnum):
    """How a scenario was found again under another id."""

    FILE = "file"
    """Git says that its file was moved."""
    RECORDING = "recording"
    """Only one scenario was removed, and only one added, that was measured on this recording."""
    TOKENS = "tokens"
    """Only one scenario was removed, and only one added, with exactly these tokens."""


class Direction(StrEnum):
    """How a baseline changed."""

    RAISED = "raised"
    LOWERED = "lowered"
    SHIFTED = "shifted"
    """Other counts with the same cost, or with the same total if the cost is unknown."""
    ADDED = "added"
    REMOVED = "removed"
    RENAMED = "renamed"
    """The same tokens under another id."""


@dataclass(frozen=True, slots=True)
class Change:
    """One baseline that differs between the two sets."""

    id: str
    """Its id now; if it was removed, its id before."""
    was: str
    """Its id before; equal to `id` unless it was renamed."""
    matched: Matched | None
    """How the two ids were matched; None if they are equal."""
    before: Usage | None
    now: Usage | None
    direction: Direction


def is_baseline_file(path: str) -> bool:
    """Return whether a path (with forward slashes) is that of a baseline file."""
    return path.endswith(".yaml") and path.split("/")[-2:-1] == ["token_budgets"]


def module_of(path: str) -> str:
    """Return the test module of a baseline file: `tests/test_a.py` for `tests/token_budgets/test_a.yaml`."""
    folder, _, name = path.rpartition("token_budgets/")
    return f"{folder}{name.removesuffix('.yaml')}.py"


def by_id(files: Mapping[str, Mapping[str, T]]) -> dict[str, T]:
    """Return what several files hold (path -> scenario name -> value) by scenario id."""
    return {
        f"{module_of(path)}::{name}": held for path in sorted(files) for name, held in files[path].items()
    }


def from_one_start(
    before: Mapping[str, Baseline], now: Mapping[str, Baseline]
) -> tuple[Baselines, Baselines, frozenset[str]]:
    """Return two sets of baselines, to be compared, and the ids of those that began with different caches.

    Of these, both sides have their foreign reads as writes: recording anew at another hour is no change.
    """
    apart = frozenset(
        name
        for name in before.keys() & now.keys()
        if None not in (before[name].recording, now[name].recording) and _apart(before[name], now[name])
    )
    was, are = (
        {
            name: as_written(one.usage, one.foreign_reads) if name in apart else one.usage
            for name, one in side.items()
        }
        for side in (before, now)
    )
    return was, are, apart


def renames(
    before: Baselines, now: Baselines, moved: Mapping[str, str], recordings: Recordings = ({}, {})
) -> dict[str, tuple[str, Matched]]:
    """Return, for each new id of a renamed scenario, its old id and how the two were matched.

    `moved` has the files that git takes for moved, new path to old path: test modules or their baselines.
    `recordings` are those of both sides.
    """
    gone, came = before.keys() - now.keys(), now.keys() - before.keys()
    found: dict[str, tuple[str, Matched]] = {}
    files = {_module(path): _module(old) for path, old in moved.items()}
    for new in sorted(came):
        file, _, name = new.partition("::")
        old = f"{files.get(file, file)}::{name}"
        if old in gone:
            found[new] = (old, Matched.FILE)
    ways: list[tuple[Matched, Mapping[str, object], Mapping[str, object]]] = [
        (Matched.RECORDING, *recordings),
        (Matched.TOKENS, _told_by_tokens(before), _told_by_tokens(now)),
    ]
    for matched, was, are in ways:
        left = gone - {old for old, _ in found.values()}
        olds, news = _by(was, left), _by(are, came - found.keys())
        for same in olds.keys() & news.keys():
            if len(olds[same]) == len(news[same]) == 1:
                found[news[same][0]] = (olds[same][0], matched)
    return found


def changes(
    before: Baselines,
    now: Baselines,
    moved: Mapping[str, str],
    cost: CostOf,
    recordings: Recordings = ({}, {}),
) -> list[Change]:
    """Return every baseline that differs, sorted by id. `cost` prices both sides."""
    known = renames(before, now, moved, recordings)
    found = []
    for name, usage in now.items():
        was, matched = known.get(name, (name, None))
        old = before.get(was)
        if old is None:
            found.append(Change(name, name, None, None, usage, Direction.ADDED))
        elif matched or old != usage:
            found.append(Change(name, was, matched, old, usage, _direction(old, usage, cost)))
    removed = before.keys() - now.keys() - {was for was, _ in known.values()}
    found += [Change(name, name, None, before[name], None, Direction.REMOVED) for name in removed]
    return sorted(found, key=lambda change: change.id)


def _module(path: str) -> str:
    return module_of(path) if is_baseline_file(path) else path


def _told_by_tokens(baselines: Baselines) -> dict[str, object]:
    return {
        name: (usage.turns, frozenset(usage.by_rate.items())) if usage.tokens.total else None
        for name, usage in baselines.items()
    }


def _by(told: Mapping[str, object], ids: Iterable[str]) -> dict[object, list[str]]:
    """Return the ids by what tells them apart; without those of which nothing does."""
    groups: dict[object, list[str]] = defaultdict(list)
    for name in ids:
        if told.get(name) is not None:
            groups[told[name]].append(name)
    return groups


def recordings(before: Mapping[str, Baseline], now: Mapping[str, Baseline]) -> Recordings:
    """Return the recordings of two sets of baselines."""
    was, are = ({name: one.recording for name, one in side.items()} for side in (before, now))
    return was, are


def _direction(before: Usage, now: Usage, cost: CostOf) -> Direction:
    if before == now:
        return Direction.RENAMED
    was, is_now = cost(before), cost(now)
    if was is None or is_now is None:
        was, is_now = Decimal(before.tokens.total), Decimal(now.tokens.total)
    if was == is_now:
        return Direction.SHIFTED
    return Direction.RAISED if is_now > was else Direction.LOWERED


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All baselines after one commit."""

    baselines: Mapping[str, Baseline]
    """By scenario id."""
    moved: Mapping[str, str] = field(default_factory=dict)
    """Files that the commit moved: new path to old path."""


Series = list[tuple[int, Usage | None]]
"""A scenario's baseline after each commit that changed it: (index of the commit, usage, or None if it is
gone)."""


def _apart(one: Baseline, other: Baseline) -> bool:
    """Return whether two baselines are of recordings that began with different caches.

    On one recording, a shared prefix that grew is read longer, which is no other start.
    """
    return one.recording != other.recording and not same_start(one.foreign_reads, other.foreign_reads)


def trends(snapshots: Iterable[Snapshot]) -> tuple[dict[str, Series], frozenset[str]]:
    """Return the series of each scenario under its newest id; `snapshots` come oldest first.

    Of the scenarios whose recordings began with different caches, whose ids are returned too, foreign reads
    count as writes throughout: recording anew at another hour is no change.
    """
    living: dict[str, list[tuple[int, Baseline | None]]] = {}
    ended: dict[str, list[tuple[int, Baseline | None]]] = {}
    before: Mapping[str, Baseline] = {}
    for place, snapshot in enumerate(snapshots):
        now = snapshot.baselines
        renamed = renames(usages(before), usages(now), snapshot.moved, recordings(before, now))
        for new, (old, _) in renamed.items():
            if new not in ended:  # else a scenario that had this name before has come back
                living[new] = living.pop(old)
        for name in living.keys() - now.keys():
            living[name].append((place, None))
            ended[name] = living.pop(name)
        for name, baseline in snapshot.baselines.items():
            series = living.setdefault(name, ended.pop(name, []))
            if not series or series[-1][1] != baseline:
                series.append((place, baseline))
        before = now
    found = {name: _from_one_start(points) for name, points in sorted({**ended, **living}.items())}
    apart = frozenset(name for name, (_, differ) in found.items() if differ)
    return {name: series for name, (series, _) in found.items()}, apart


def _from_one_start(points: Iterable[tuple[int, Baseline | None]]) -> tuple[Series, bool]:
    """Return the series of a scenario's baselines, and whether their recordings began with different caches.

    A baseline of version 1 does not say how it began, unless one with the same tokens follows and says so.
    """
    held: list[tuple[int, Baseline | None]] = []
    for place, baseline in reversed(list(points)):
        later = held[-1][1] if held else None
        is_same = baseline and later and baseline.recording is None and baseline.usage == later.usage
        held.append((place, later if is_same else baseline))
    held.reverse()
    known = [baseline for _, baseline in held if baseline and baseline.recording]
    apart = any(_apart(one, other) for one, other in pairwise(known))
    series: Series = []
    for place, baseline in held:
        usage = baseline.usage if baseline else None
        if baseline and apart:
            usage = as_written(baseline.usage, baseline.foreign_reads)
        if not series or series[-1][1] != usage:
            series.append((place, usage))
    return series, apart


_BODY = re.compile(r"(?s)(?P<head>.*?\nscenarios:\n)(?P<entries>(?:  [^\n]*\n)+)")
_ENTRY = re.compile(r"(?m)^(?=  \S)")
_COUNTS = r"(?:        \w+: (?:0|[1-9]\d*)\n)+"
_FOREIGN = (
    r"(?:        foreign_reads:\n(?=          (?:5m|1h))"
    r"(?:          5m: [1-9]\d*\n)?(?:          1h: [1-9]\d*\n)?)?"
)
_DIGEST = (
    r"(?:'[0-9a-f]{12}'|(?=[0-9b]*[ac-f])[0-9a-f]{12})"  # YAML takes digits alone, and 0b01, for numbers
)
_ADDED = (
    rf"(?:    recording: (?P<recording>{_DIGEST})\n)?(?:    accepted: (?P<accepted>{_DIGEST})\n)?"
    r"(?:    counted_by: (?P<counted_by>[a-z][\w-]* [\w.]+)\n)?"
)
_USAGE = re.compile(
    rf"    turns: (?P<turns>0|[1-9]\d*)\n    models:\n"
    rf"(?P<models>(?:      [\w.() ,-]+:\n{_COUNTS}{_FOREIGN})+){_ADDED}"
)
_NEW_KEY = re.compile(r"(?m)^(?:        foreign_reads|    (?:recording|accepted|counted_by)):")
_MODEL = re.compile(rf"      (?P<rate>[a-z][\w.() ,-]*):\n(?P<counts>{_COUNTS})(?P<foreign>{_FOREIGN})")


class VersionReader:
    """Read texts of baseline files as `parse_baselines` does, but fast if the tool itself wrote them.

    An entry that was read before is not read again, and an entry as the tool writes it needs no YAML parser.
    So a hundred commits of five hundred scenarios are read in a second instead of ten.
    """

    def __init__(self) -> None:
        self._known: dict[tuple[str, str], Mapping[str, Baseline]] = {}  # by head (has the version) and entry
        self._names: dict[str, str] = {}
        self._heads: set[str] = set()

    def read(self, text: str, where: str) -> Mapping[str, Baseline]:
        """Return the baselines of a text by scenario name. Raises BaselineError, which says `where` it is."""
        found = _BODY.fullmatch(text)
        if found is None:
            return parse_baselines(text, where)
        baselines: dict[str, Baseline] = {}
        try:
            head = found["head"]
            self._check(head)
            for entry in _ENTRY.split(found["entries"])[1:]:
                if (head, entry) not in self._known:
                    self._known[head, entry] = self._entry(head, entry)
                baselines.update(self._known[head, entry])
        except BaselineError:  # not as the tool writes it, for example a value of several lines, or an alias
            return parse_baselines(text, where)
        return baselines

    def _check(self, head: str) -> None:
        if head not in self._heads:
            parse_baselines(head + "  {}\n", "the version")
            self._heads.add(head)

    def _entry(self, head: str, entry: str) -> Mapping[str, Baseline]:
        first, _, rest = entry.partition("\n")
        baseline = _baseline(rest, added="version: 1\n" not in head)
        if baseline is None:
            return parse_baselines(head + entry, "an entry")
        if first not in self._names:
            (self._names[first],) = parse_baselines(head + entry, "an entry")
        return {self._names[first]: baseline}


def _baseline(text: str, *, added: bool) -> Baseline | None:
    """Read the lines below a scenario's name; None if they are not as the tool writes them.

    `added` says whether the file may hold the keys that version 2 added.
    """
    found = _USAGE.fullmatch(text)
    if found is None or (not added and _NEW_KEY.search(text)):
        return None
    by_rate, foreign_reads = {}, {}
    for model in _MODEL.finditer(found["models"]):
        counts, rate = _numbers(model["counts"]), Rate.parse(model["rate"])
        if not counts.keys() >= set(REQUIRED):
            return None
        try:
            by_rate[rate] = Tokens(**counts)
        except TypeError:
            return None
        if foreign := model["foreign"]:
            foreign_reads[rate] = _numbers(foreign.partition("\n")[2])
    usage = Usage(int(found["turns"]), MappingProxyType(by_rate))
    recording, accepted = ((found[key] or "").strip("'") or None for key in ("recording", "accepted"))
    return Baseline(usage, foreign_reads, recording, accepted, found["counted_by"])


def _numbers(lines: str) -> dict[str, int]:
    """Return the numbers of lines like `input_tokens: 12`, by name."""
    pairs = (line.strip().split(": ") for line in lines.splitlines())
    return {name: int(number) for name, number in pairs}


Arguments = Mapping[str, object]
"""Settings by name, as literals."""


@dataclass(frozen=True, slots=True)
class LimitChange:
    """One setting, or one argument of a marker, that differs."""

    name: str
    """Name of the setting; empty if a marker is not written in literals, so that its change is not known."""
    was: object
    """The old value; None if it was not set."""
    now: object
    """The new value; None if it is not set."""

    @property
    def is_exclusion(self) -> bool:
        """Whether more is excluded than before."""
        return self.name == "exclude" and self.now is not None and not _holds(self.was, self.now)

    @property
    def is_looser(self) -> bool:
        """Whether more passes than before. A limit that cannot be read may let anything pass."""
        if self.name == "tolerance":
            try:
                was, now = (parse_tolerances({} if one is None else one) for one in (self.was, self.now))
            except ValueError:
                return True
            return any(_allows_more(was[metric], now[metric]) for metric in DEFAULTS)
        if not self.name.startswith("max_"):
            return not self.name
        if isinstance(self.was, int | float) and isinstance(self.now, int | float):
            return self.now > self.was
        return self.was is not None

    def __str__(self) -> str:
        if not self.name:
            return "the marker changed"
        was, now = ("not set" if one is None else _written(one) for one in (self.was, self.now))
        return f"{self.name} {was} -> {now}"


def _holds(was: object, now: object) -> bool:
    """Return whether everything that is excluded now was excluded before."""
    if isinstance(was, list) and isinstance(now, list):
        return all(pattern in was for pattern in now)
    return was is not None


def _allows_more(was: Tolerance, now: Tolerance) -> bool:
    return now.relative > was.relative or now.absolute > was.absolute


def _written(value: object) -> str:
    return f'"{value}"' if isinstance(value, str) else str(value)


def limit_changes(was: Arguments, now: Arguments) -> list[LimitChange]:
    """Return what differs between two tables of settings, sorted by name."""
    names = sorted(name for name in {*was, *now} if was.get(name) != now.get(name))
    return [LimitChange(name, was.get(name), now.get(name)) for name in names]


PYTEST_FILES: Mapping[str, tuple[tuple[str, ...], ...]] = MappingProxyType(
    {
        "pytest.ini": (("pytest",),),
        ".pytest.ini": (("pytest",),),
        "pytest.toml": (("pytest",),),
        ".pytest.toml": (("pytest",),),
        "pyproject.toml": (("tool", "pytest", "ini_options"), ("tool", "pytest")),
        "tox.ini": (("pytest",),),
        "setup.cfg": (("tool:pytest",),),
    }
)
"""The tables that hold settings of pytest, by the name of a file.

<https://docs.pytest.org/en/stable/reference/customize.html#configuration-file-formats>
"""
_COLLECTION = ("testpaths", "python_files", "python_classes", "python_functions", "norecursedirs")
"""Settings that choose what pytest collects."""
_CHOOSES = re.compile(
    r"--token-budget(?!-report|-log).*|-[lqsvx]*x[lqsvx]*|--(?:exitfirst|maxfail|sw|stepwise|lf|last-failed|co|collect-only|setup-only|setup-plan|fixtures"
    r"|noconftest|deselect|ignore|ignore-glob|config-file|override-ini|rootdir|confcutdir)(?:=.*)?|-[kmco].*"
)
"""Options that choose tests, end a run early, read other settings, or belong to this plugin."""
_TAKES_NEXT = re.compile(
    r"-[kmcop]|--(?:maxfail|deselect|ignore|ignore-glob|config-file|override-ini|rootdir)"
)
"""Those whose value may be the next argument."""


def pytest_settings(name: str, text: str) -> Arguments:
    """Return the settings in a file called `name` that decide what pytest runs, and how it is judged.

    Of `addopts` only options that decide are kept. What cannot be read is empty: pytest refuses it.
    """
    read = _toml if name.endswith(".toml") else _ini
    for path in PYTEST_FILES[name]:
        table = read(text, path)
        kept = {key: " ".join(table[key]) for key in _COLLECTION if table.get(key)}
        if deciding := shlex.join(_deciding(table.get("addopts", ()))):
            kept["addopts"] = deciding
        if kept:
            return kept
    return {}


_PROSE = (".md", ".rst", ".txt")
_SETS = re.compile(r"\b(PYTEST_ADDOPTS|pytest-args)\b[\"'\]]*[ \t]*[:=]*[ \t]*(?:[>|][-+]?[ \t]*\n)?(.*)")
_RUNS = re.compile(r"(?:^|[\s/\"'])(pytest|py\.test)[ \t](.*)", re.MULTILINE)
_COMMENT = re.compile(r"^[ \t]*#.*$", re.MULTILINE)


def pytest_options(path: str, text: str) -> Arguments:
    """Return the options that a workflow, a script or a settings file of any kind hands to pytest.

    They are set in `PYTEST_ADDOPTS`, in the input `pytest-args` of the action, or stand behind `pytest` in a
    command. Only those that decide what is run or judged are kept.
    """
    if path.endswith(_PROSE) or "pytest" not in text.lower():
        return {}
    code = _COMMENT.sub("", text)
    commands = [] if path.endswith(".py") else _RUNS.findall(code)
    kept: dict[str, list[str]] = defaultdict(list)
    for name, value in (*_SETS.findall(code), *commands):
        kept[name] += [shlex.join(_deciding(_split(value.strip("\"' \t"))))]
    return {name: "; ".join(filter(None, values)) for name, values in kept.items() if any(values)}


def _deciding(options: Sequence[str]) -> Iterator[str]:
    """Yield the options that decide what runs or how it is judged, their values, and tests by their names."""
    before = ""
    for option in options:
        if before == "-p":
            yield from ("-p", option) if option == "no:tokenbudget" else ()
        elif (
            _TAKES_NEXT.fullmatch(before)
            or _CHOOSES.fullmatch(option)
            or option == "-pno:tokenbudget"
            or (not option.startswith("-") and ("::" in option or option.endswith(".py")))
        ):
            yield option
        before = option


def _toml(text: str, path: Sequence[str]) -> dict[str, list[str]]:
    """Return the strings and lists of strings of a table as arguments."""
    try:
        table: object = tomllib.loads(text)
        for key in path:
            table = table[key]  # type: ignore[index]
        items = dict(table).items()  # type: ignore[call-overload]
    except (tomllib.TOMLDecodeError, KeyError, TypeError, ValueError):
        return {}
    return {
        key: _split(value) if isinstance(value, str) else [each for each in value if isinstance(each, str)]
        for key, value in items
        if isinstance(value, str | list)
    }


def _ini(text: str, path: Sequence[str]) -> dict[str, list[str]]:
    parser = RawConfigParser(strict=False)
    try:
        parser.read_string(text)
        return {key: _split(value) for key, value in parser.items(path[0])}
    except IniError:
        return {}


def _split(arguments: str) -> list[str]:
    """Return the arguments of a command line; none if its quotes are not closed."""
    try:
        return shlex.split(arguments)
    except ValueError:
        return []


def marker_changes(was: str, now: str) -> dict[str, list[LimitChange]]:
    """Return what differs in the markers of a test file, by the name of what they mark: `TestCart.test_a`.

    A marker of the whole module has the name `the module`. For a new test, only what is looser than the
    default counts as a difference. Removed tests are left out. Text that is no Python has no markers.
    """
    before, after = _markers(was), _markers(now)
    found: dict[str, list[LimitChange]] = {}
    for name, marker in after.items():
        known = before.get(name, {})
        if marker is None or known is None:
            changes = [LimitChange("", None, None)] if marker != known else []
        else:
            changes = limit_changes(known, marker)
            if name not in before:
                changes = [change for change in changes if change.is_looser or change.is_exclusion]
        if changes:
            found[name] = changes
    return found


def _markers(source: str) -> dict[str, dict[str, object] | None]:
    """Return the arguments of the markers of each function and class, by its name; empty without any.

    None if one of its markers is not written in literals.
    """
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError):
        return {}
    found: dict[str, dict[str, object] | None] = {}
    for name, call in _marked(tree, ""):
        own = found.setdefault(name, {})
        if call is None or own is None:
            continue
        try:
            own |= {keyword.arg: ast.literal_eval(keyword.value) for keyword in call.keywords if keyword.arg}
            readable = not call.args and all(keyword.arg for keyword in call.keywords)
        except ValueError:
            readable = False
        if not readable:
            found[name] = None
    return found


def _marked(node: ast.AST, name: str) -> Iterator[tuple[str, ast.Call | None]]:
    """Yield (name, None) for each function and class, and (name, call) for each call of our marker.

    The name is that of the innermost function or class around it.
    """
    for child in ast.iter_child_nodes(node):
        inner = name
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            inner = f"{name}.{child.name}".lstrip(".")
            yield inner, None
        elif isinstance(child, ast.Call) and ast.unparse(child.func).rpartition(".")[2] == MARKER:
            yield name or "the module", child
        yield from _marked(child, inner)
