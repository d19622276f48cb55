"""Read the committed baselines of a folder: in its files, at a commit, and through history.

In a run each file is read once, and written at its end.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from pytest_tokenbudget.budget.baselines import (
    Baseline,
    baseline_path,
    parse_baselines,
    read_baselines,
    usages,
    write_baselines,
)
from pytest_tokenbudget.budget.changes import (
    PATTERN,
    Baselines,
    Snapshot,
    VersionReader,
    by_id,
    is_baseline_file,
    trends,
)
from pytest_tokenbudget.errors import BaselineError, GitError, TokenBudgetError
from pytest_tokenbudget.metering.pricing import Prices
from pytest_tokenbudget.model import Rate, Usage
from pytest_tokenbudget.reports.build import Place
from pytest_tokenbudget.reports.document import ScenarioEntry, usage_of
from pytest_tokenbudget.reports.history import History, from_trends
from pytest_tokenbudget.repository.git import Commit, FileChange, Repository

COMMITS = 100
"""How many commits are looked back at."""


def in_files(folder: Path) -> dict[str, Usage]:
    """By scenario id, what the baseline files below `folder` hold now. Raises BaselineError."""
    try:
        paths = Repository.open(folder).files(PATTERN)
    except GitError:  # show needs no repository
        paths = sorted(path.relative_to(folder).as_posix() for path in folder.glob(PATTERN))
    return by_id({path: usages(read_baselines(folder / path)) for path in paths})


def at_commit(repository: Repository, commit: Commit) -> dict[str, Usage]:
    """By scenario id, what the baseline files held at `commit`. Raises BaselineError."""
    tree = _baseline_files(repository, commit)
    contents = dict(repository.blobs(tree.values()))
    where = {path: f"{path} at {commit.id[:7]}" for path in tree}
    texts = {path: _text(contents[blob], where[path]) for path, blob in tree.items()}
    return by_id({path: usages(parse_baselines(text, where[path])) for path, text in texts.items()})


@dataclass(frozen=True, slots=True)
class Past:
    """What history holds of the baselines; commits oldest first."""

    commits: list[Commit]
    snapshots: list[Snapshot]
    """All baselines after each of the commits."""
    amiss: list[str]
    """Files that could not be read at a commit, in sentences; they keep what they held before."""


def in_history(repository: Repository, most: int) -> Past:
    """The newest `most` commits that changed a baseline. Raises GitError where history is cut off."""
    repository.require_history()
    past = Past([], [], [])
    changed = repository.changes(PATTERN, most=most) if repository.commit() else []
    first = _baseline_files(repository, changed[0][0]) if changed else {}
    blobs = {*first.values(), *(file.blob for _, files in changed for file in files if file.blob)}
    contents = dict(repository.blobs(blobs))
    reader, read = VersionReader(), dict[str, Baselines]()
    held: dict[str, Baselines] = {}
    for commit, files in changed:
        whole = not past.commits  # the oldest is taken as a whole: what came before it is not asked for
        told = [FileChange(path, path, blob) for path, blob in first.items()] if whole else files
        for gone in {file.was for file in told if file.blob is None or file.was != file.path}:
            held.pop(gone, None)
        for file in told:
            if file.blob is None:
                continue
            where = f"{file.path} at {commit.id[:7]}"
            try:
                if file.blob not in read:
                    read[file.blob] = reader.read(_text(contents[file.blob], where), where)
                held[file.path] = read[file.blob]
            except BaselineError as error:
                past.amiss.append(str(error))
        past.commits.append(commit)
        moved = {file.path: file.was for file in told if file.was != file.path}
        past.snapshots.append(Snapshot(by_id(held), moved))
    return past


def read_history(repository: Repository, most: int = COMMITS) -> tuple[History, list[str]]:
    """HISTORY of the newest `most` commits that changed a baseline, at the prices of today; what is amiss.

    Raises GitError where history is cut off.
    """
    past = in_history(repository, most)
    prices = Prices()
    history = from_trends(
        [{"commit": one.id, "date": one.date, "subject": one.subject} for one in past.commits],
        trends(past.snapshots),
        {"source": prices.source, "version": prices.version},
        prices.cost,
    )
    return history, past.amiss


def _baseline_files(repository: Repository, commit: Commit) -> Mapping[str, str]:
    files = repository.tree(commit.id, ".yaml")
    return {path: blob for path, blob in files.items() if is_baseline_file(path)}


def _text(content: bytes, where: str) -> str:
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise BaselineError(f"{where}: is not UTF-8 text: {error}.") from error


def _baseline(entry: ScenarioEntry, usage: Usage) -> Baseline:
    on = entry.get("measured_on")
    if on is None:
        return Baseline(usage)
    foreign = {Rate.parse(rate): ttls for rate, ttls in on["foreign_reads"].items()}
    return Baseline(usage, foreign, on["recording"])


class Committed:
    """Those of all test files below `root`."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._read: dict[Path, Mapping[str, Baseline]] = {}

    def of(self, place: Place) -> Baseline | None:
        """Return the baseline of a scenario, or None. Raises BaselineError."""
        path = self._path(place)
        if path not in self._read:
            self._read[path] = read_baselines(path)
        return self._read[path].get(place.name)

    def update(self, scenarios: Iterable[ScenarioEntry]) -> tuple[list[Path], list[str]]:
        """Write what was measured; what is stale or past a cap keeps the baseline that it has.

        The files that changed, and what could not be written, in sentences.
        """
        changed: dict[Path, dict[str, Baseline]] = defaultdict(dict)
        for entry in scenarios:
            if entry["verdict"] not in ("stale", "over") and entry["measured"] is not None:
                place = Place(entry["id"], entry["file"], entry["line"])
                baseline = _baseline(entry, usage_of(entry["measured"]))
                if not self._is_told(place, baseline.usage):
                    changed[self._path(place)][place.name] = baseline
        written, problems = [], []
        for path, baselines in sorted(changed.items()):
            try:
                if write_baselines(path, baselines):
                    written.append(path)
            except TokenBudgetError as error:
                problems.append(str(error))
        return written, problems

    def _is_told(self, place: Place, usage: Usage) -> bool:
        """Whether a baseline of version 1 holds just that; what it does not say, a migration adds."""
        try:
            kept = self.of(place)
        except BaselineError:  # told when the file is written
            return False
        return kept is not None and kept.recording is None and kept.usage == usage

    def _path(self, place: Place) -> Path:
        return baseline_path(self._root / place.file)
