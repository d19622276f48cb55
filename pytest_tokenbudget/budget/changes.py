"""Two sets of committed baselines: what was raised, lowered, added or removed, and what was only renamed."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum

from pytest_tokenbudget.budget.verdict import CostOf
from pytest_tokenbudget.model import Usage

PATTERN = "**/token_budgets/*.yaml"
"""Where baseline files are, below any folder."""

Baselines = Mapping[str, Usage]
"""By scenario id."""


class Matched(StrEnum):
    """How a scenario was found again under another id."""

    FILE = "file"
    """Git takes its file for moved."""
    TOKENS = "tokens"
    """It is the only one that went and the only one that came with exactly these tokens."""


class Direction(StrEnum):
    """Where a baseline went."""

    RAISED = "raised"
    LOWERED = "lowered"
    SHIFTED = "shifted"
    """Other counts of the same cost, or of the same total where the cost is unknown."""
    ADDED = "added"
    REMOVED = "removed"
    RENAMED = "renamed"
    """The same tokens under another id."""


@dataclass(frozen=True, slots=True)
class Change:
    """One baseline that is not what it was."""

    id: str
    """Now; where it was removed, before."""
    was: str
    """Its id before; the same where it only changed."""
    matched: Matched | None
    """How the two ids were matched; None where they are one."""
    before: Usage | None
    now: Usage | None
    direction: Direction


def is_baseline_file(path: str) -> bool:
    """Whether a path, with forward slashes, is that of a baseline file."""
    return path.endswith(".yaml") and path.split("/")[-2:-1] == ["token_budgets"]


def module_of(path: str) -> str:
    """The test module of a baseline file: `tests/test_a.py` of `tests/token_budgets/test_a.yaml`."""
    folder, _, name = path.rpartition("token_budgets/")
    return f"{folder}{name.removesuffix('.yaml')}.py"


def by_id(files: Mapping[str, Baselines]) -> dict[str, Usage]:
    """The baselines of several files, by path, as one."""
    return {
        f"{module_of(path)}::{name}": usage for path in sorted(files) for name, usage in files[path].items()
    }


def renames(before: Baselines, now: Baselines, moved: Mapping[str, str]) -> dict[str, tuple[str, Matched]]:
    """For each new id that an old scenario goes by, the old id and how they were matched.

    `moved` are files that git takes for moved, new path by old path: test modules or their baselines.
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
    """Every baseline that differs, by id. Both sides are priced by the same `cost`."""
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
