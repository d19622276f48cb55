"""The baselines commit by commit, as one series a scenario, across renamed tests and moved files."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from pytest_tokenbudget.budget.changes import Baselines, renames
from pytest_tokenbudget.model import Usage


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All baselines after one commit."""

    baselines: Baselines
    moved: Mapping[str, str] = field(default_factory=dict)
    """Files that the commit moved: new path to old path."""


Series = list[tuple[int, Usage | None]]
"""What a scenario's baseline became, by the place of the commit; only where it changed. None: it is gone."""


def trends(snapshots: Iterable[Snapshot]) -> dict[str, Series]:
    """The series of each scenario under its newest id; `snapshots` oldest first."""
    living: dict[str, Series] = {}
    ended: dict[str, Series] = {}
    before: Baselines = {}
    for place, snapshot in enumerate(snapshots):
        now = snapshot.baselines
        for new, (old, _) in renames(before, now, snapshot.moved).items():
            if new not in ended:  # else it is the one that had this name before, come back
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
