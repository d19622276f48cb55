"""Compare what is committed with what was: baselines raised, lowered, added, renamed; looser limits.

Commit by commit, the changes make one series for each scenario, across renamed tests and moved files. History
holds thousands of versions of baseline files that are mostly equal: `VersionReader` reads them fast. Limits
are in the settings and in the markers of tests. Of markers, only literal arguments are read; no code is run.
"""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from enum import StrEnum
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


class Matched(StrEnum):
    """How a scenario was found again under another id."""

    FILE = "file"
    """Git says that its file was moved."""
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
        if None not in (before[name].recording, now[name].recording)
        and not same_start(before[name].foreign_reads, now[name].foreign_reads)
    )
    was, are = (
        {
            name: as_written(one.usage, one.foreign_reads) if name in apart else one.usage
            for name, one in side.items()
        }
        for side in (before, now)
    )
    return was, are, apart


def renames(before: Baselines, now: Baselines, moved: Mapping[str, str]) -> dict[str, tuple[str, Matched]]:
    """Return, for each new id of a renamed scenario, its old id and how the two were matched.

    `moved` has the files that git takes for moved, new path to old path: test modules or their baselines.
    """
    gone, came = before.keys() - now.keys(), now.keys() - before.keys()
    found: dict[str, tuple[str, Matched]] = {}
    files = {_module(path): _module(old) for path, old in moved.items()}
    for new in sorted(came):
        file, _, name = new.partition("::")
        old = f"{files.get(file, file)}::{name}"
        if old in gone:
            found[new] = (old, Matched.FILE)
    left = gone - {old for old, _ in found.values()}
    olds, news = _by_tokens(left, before), _by_tokens(came - found.keys(), now)
    for tokens in olds.keys() & news.keys():
        if len(olds[tokens]) == len(news[tokens]) == 1:
            found[news[tokens][0]] = (olds[tokens][0], Matched.TOKENS)
    return found


def changes(before: Baselines, now: Baselines, moved: Mapping[str, str], cost: CostOf) -> list[Change]:
    """Return every baseline that differs, sorted by id. `cost` prices both sides."""
    known = renames(before, now, moved)
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


def _by_tokens(ids: Iterable[str], baselines: Baselines) -> dict[object, list[str]]:
    groups: dict[object, list[str]] = defaultdict(list)
    for name in ids:
        usage = baselines[name]
        if usage.tokens.total:
            groups[usage.turns, frozenset(usage.by_rate.items())].append(name)
    return groups


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

    baselines: Baselines
    moved: Mapping[str, str] = field(default_factory=dict)
    """Files that the commit moved: new path to old path."""


Series = list[tuple[int, Usage | None]]
"""A scenario's baseline after each commit that changed it: (index of the commit, usage, or None if it is
gone)."""


def trends(snapshots: Iterable[Snapshot]) -> dict[str, Series]:
    """Return the series of each scenario under its newest id; `snapshots` come oldest first."""
    living: dict[str, Series] = {}
    ended: dict[str, Series] = {}
    before: Baselines = {}
    for place, snapshot in enumerate(snapshots):
        now = snapshot.baselines
        for new, (old, _) in renames(before, now, snapshot.moved).items():
            if new not in ended:  # else a scenario that had this name before has come back
                living[new] = living.pop(old)
        for name in living.keys() - now.keys():
            living[name].append((place, None))
            ended[name] = living.pop(name)
        for name, usage in now.items():
            series = living.setdefault(name, ended.pop(name, []))
            if not series or series[-1][1] != usage:
                series.append((place, usage))
        before = now
    return dict(sorted({**ended, **living}.items()))


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
    rf"(?:    recording: {_DIGEST}\n)?(?:    accepted: {_DIGEST}\n)?"
    r"(?:    counted_by: [a-z][\w-]* [\w.]+\n)?"
)
_USAGE = re.compile(
    rf"    turns: (?P<turns>0|[1-9]\d*)\n    models:\n"
    rf"(?P<models>(?:      [\w.() ,-]+:\n{_COUNTS}{_FOREIGN})+){_ADDED}"
)
_NEW_KEY = re.compile(r"(?m)^(?:        foreign_reads|    (?:recording|accepted|counted_by)):")
_MODEL = re.compile(rf"      (?P<rate>[a-z][\w.() ,-]*):\n(?P<counts>{_COUNTS}){_FOREIGN}")


class VersionReader:
    """Read texts of baseline files as `parse_baselines` does, but fast if the tool itself wrote them.

    An entry that was read before is not read again, and an entry as the tool writes it needs no YAML parser.
    So a hundred commits of five hundred scenarios are read in a second instead of ten.
    """

    def __init__(self) -> None:
        self._known: dict[tuple[str, str], Mapping[str, Usage]] = {}  # by head (has the version) and entry
        self._names: dict[str, str] = {}
        self._heads: set[str] = set()

    def read(self, text: str, where: str) -> Mapping[str, Usage]:
        """Return the usages of a text by scenario name. Raises BaselineError, which says `where` it is."""
        found = _BODY.fullmatch(text)
        if found is None:
            return usages(parse_baselines(text, where))
        baselines: dict[str, Usage] = {}
        try:
            head = found["head"]
            self._check(head)
            for entry in _ENTRY.split(found["entries"])[1:]:
                if (head, entry) not in self._known:
                    self._known[head, entry] = self._entry(head, entry)
                baselines.update(self._known[head, entry])
        except BaselineError:  # not as the tool writes it, for example a value of several lines, or an alias
            return usages(parse_baselines(text, where))
        return baselines

    def _check(self, head: str) -> None:
        if head not in self._heads:
            parse_baselines(head + "  {}\n", "the version")
            self._heads.add(head)

    def _entry(self, head: str, entry: str) -> Mapping[str, Usage]:
        first, _, rest = entry.partition("\n")
        usage = _usage(rest, added="version: 1\n" not in head)
        if usage is None:
            return usages(parse_baselines(head + entry, "an entry"))
        if first not in self._names:
            (self._names[first],) = parse_baselines(head + entry, "an entry")
        return {self._names[first]: usage}


def _usage(text: str, *, added: bool) -> Usage | None:
    """Read the lines below a scenario's name; None if they are not as the tool writes them.

    `added` says whether the file may hold the keys that version 2 added.
    """
    found = _USAGE.fullmatch(text)
    if found is None or (not added and _NEW_KEY.search(text)):
        return None
    by_rate = {}
    for model in _MODEL.finditer(found["models"]):
        counts = dict(line.strip().split(": ") for line in model["counts"].splitlines())
        if not counts.keys() >= set(REQUIRED):
            return None
        try:
            by_rate[Rate.parse(model["rate"])] = Tokens(
                **{name: int(value) for name, value in counts.items()}
            )
        except TypeError:
            return None
    return Usage(int(found["turns"]), MappingProxyType(by_rate))


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
