"""The baselines beside the tests of a suite: each file is read once a run, and written at its end."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path

from pytest_tokenbudget.budget.baselines import baseline_path, read_baselines, write_baselines
from pytest_tokenbudget.errors import TokenBudgetError
from pytest_tokenbudget.model import Usage
from pytest_tokenbudget.reports.build import Place
from pytest_tokenbudget.reports.document import ScenarioEntry, usage_of


class Committed:
    """Those of all test files below `root`."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._read: dict[Path, Mapping[str, Usage]] = {}

    def of(self, place: Place) -> Usage | None:
        """Of one scenario; None where it has none. Raises BaselineError."""
        path = self._path(place)
        if path not in self._read:
            self._read[path] = read_baselines(path)
        return self._read[path].get(place.name)

    def update(self, scenarios: Iterable[ScenarioEntry]) -> tuple[list[Path], list[str]]:
        """Write what was measured; what is stale or past a cap keeps the baseline that it has.

        The files that changed, and what could not be written, in sentences.
        """
        changed: dict[Path, dict[str, Usage]] = defaultdict(dict)
        for entry in scenarios:
            if entry["verdict"] not in ("stale", "over") and entry["measured"] is not None:
                place = Place(entry["id"], entry["file"], entry["line"])
                changed[self._path(place)][place.name] = usage_of(entry["measured"])
        written, problems = [], []
        for path, baselines in sorted(changed.items()):
            try:
                if write_baselines(path, baselines):
                    written.append(path)
            except TokenBudgetError as error:
                problems.append(str(error))
        return written, problems

    def _path(self, place: Place) -> Path:
        return baseline_path(self._root / place.file)
