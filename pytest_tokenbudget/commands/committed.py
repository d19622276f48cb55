"""Show committed baselines, and prune them: `tokenbudget diff`, `show`, `history` and `prune`."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from pytest_tokenbudget.budget.baselines import read_baselines
from pytest_tokenbudget.budget.changes import (
    PATTERN,
    Baselines,
    changes,
    from_one_start,
    module_of,
    recordings,
)
from pytest_tokenbudget.commands import output, suite
from pytest_tokenbudget.errors import BaselineError, ReportError
from pytest_tokenbudget.metering.pricing import Prices
from pytest_tokenbudget.model import ScenarioId, Verdict
from pytest_tokenbudget.replay.cassette_file import is_own, module_of_cassette
from pytest_tokenbudget.reports import baseline_report, build, document
from pytest_tokenbudget.reports.baseline_report import Diff
from pytest_tokenbudget.reports.document import Document
from pytest_tokenbudget.reports.history import history_lines, log_lines, read_log
from pytest_tokenbudget.reports.scenario_view import is_taken_along, take_along
from pytest_tokenbudget.reports.text import plain
from pytest_tokenbudget.repository import baseline_history
from pytest_tokenbudget.repository.baseline_history import read_history
from pytest_tokenbudget.repository.git import Repository
from pytest_tokenbudget.run.results import Collected, is_of_fixture
from pytest_tokenbudget.settings import load_settings
from pytest_tokenbudget.wording import plural


def write_diff(
    folder: Path,
    base: str | None,
    *,
    report: Path | None = None,
    base_report: Path | None = None,
    form: str = "terminal",
    destination: Path | None = None,
) -> int:
    """Compare the baselines with those of `base` and write the DIFF.

    Raises GitError, BaselineError and ReportError.
    """
    if (report is None) != (base_report is None):
        raise ReportError("What failed already is told from two documents: give --report and --base-report.")
    found = compare(Repository.open(folder), base)
    if report is not None and base_report is not None:
        was = {one["id"]: one["was"] for one in found["scenarios"]}
        now, then = document.load(report), document.load(base_report)
        found["already"] = baseline_report.already_failing(now, then, was)
    lines, markdown = baseline_report.diff_lines, baseline_report.diff_markdown
    output.write_form(form, found, destination, lines=lines, markdown=markdown)
    return 0


def compare(repository: Repository, base: str | None) -> Diff:
    """Return the DIFF between where HEAD left `base` and the files of now.

    A `base` of None is the default branch.
    """
    name = base or repository.default_branch()
    commit = repository.merge_base(name)
    both = (
        baseline_history.baselines_at_commit(repository, commit),
        baseline_history.baselines_in_files(repository.folder),
    )
    before, now, apart = from_one_start(*both)
    prices = Prices()
    changed = changes(before, now, repository.moved(commit.id), prices.cost, recordings(*both))
    found = baseline_report.diff(
        changed,
        _unchanged(before, now),
        {"name": name, "commit": commit.id},
        {"source": prices.source, "version": prices.version},
        prices.cost,
        load_settings(repository.folder).scenario.runs_per_month,
        baseline_history.accepted_since(repository, commit),
        build.starts(both[1].values(), prices.cost),
    )
    if apart:
        found["other_start"] = sorted(apart)
    return found


def _unchanged(before: Baselines, now: Baselines) -> int:
    return sum(before.get(name) == usage for name, usage in now.items())


def write_baselines(folder: Path, paths: Sequence[str], form: str = "terminal") -> int:
    """Write what the baselines hold; if `paths` are given, only of the tests in these.

    Raises BaselineError, also if no baseline is in a path, and SettingsError.
    """
    prices = Prices()
    runs = load_settings(folder).scenario.runs_per_month
    found = baseline_history.baselines_in_files(folder)
    chosen = {name: baseline for name, baseline in found.items() if not paths or _is_in(name, paths)}
    if paths and not chosen:
        raise BaselineError(
            f"No baseline belongs to {', '.join(paths)}. Name test files or folders, from here."
        )
    tokens = {name: build.tokens(one.usage, prices.cost) for name, one in sorted(chosen.items())}
    price_list = {"source": prices.source, "version": prices.version}
    start = build.starts(chosen.values(), prices.cost)
    if form == "json":
        value = baseline_report.suite_json(tokens, price_list, runs, start)
        output.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", None)
        return 0
    lines = baseline_report.suite_lines(
        tokens, price_list, runs, start, columns=output.columns(), ascii_only=output.ascii_only()
    )
    output.write_lines(lines, None)
    return 0


def _is_in(name: str, paths: Sequence[str]) -> bool:
    """Return whether a scenario is one of `paths`: folders, test files, or node ids."""
    file = PurePosixPath(name.partition("::")[0])
    return any(name == path or file.is_relative_to(PurePosixPath(path)) for path in paths)


def write_logged(log: Path, form: str, destination: Path | None) -> int:
    """Write what a log says of the runs that were made. Raises ReportError for one that cannot be read."""
    entries = read_log(output.read_text(log), str(log))
    if form == "json":
        output.write_text(json.dumps(entries, ensure_ascii=False) + "\n", destination)
    else:
        lines = log_lines(entries, columns=output.columns(), ascii_only=output.ascii_only())
        output.write_lines(lines, destination)
    return 0


def write_history(folder: Path, form: str, most: int, destination: Path | None) -> int:
    """Write the history; tell what could not be read. Raises GitError if history is cut off."""
    history, amiss = read_history(Repository.open(folder), most)
    runs = load_settings(folder).scenario.runs_per_month
    for sentence in amiss:
        output.tell(sentence)
    if form == "terminal":
        lines = history_lines(
            history, columns=output.columns(), ascii_only=output.ascii_only(), runs_per_month=runs
        )
        output.write_lines(lines, destination)
    elif form == "json":
        output.write_text(json.dumps(history, separators=(",", ":"), ensure_ascii=False) + "\n", destination)
    else:
        from pytest_tokenbudget.reports.dashboard import dashboard

        output.write_text(dashboard(None, history, runs_per_month=runs), destination)
    return 0


def prune(folder: Path, arguments: Sequence[str], *, delete: bool) -> int:
    """List the baselines and cassettes that belong to no test, or delete them.

    Where there are any, the suite is replayed: what a test under another name finds by what it asks is kept.
    Files that vcrpy or pytest-recording wrote are never touched. Raises ReportError. Raises BaselineError too
    if it is not known what belongs to no test: something was left out of the collection, or a test without a
    baseline did not say what it asks, or asks what was never recorded.
    """
    collected = suite.collect(arguments, folder)
    root = Path(collected["root"])
    left = [*_without_test(root, collected)]
    asked = suite.measure(arguments, folder).document if left else None
    renamed = [one for one in asked["scenarios"] if "formerly" in one] if asked else []
    formerly = {one["id"]: one["formerly"] for one in renamed}
    kept = {name for one in formerly.values() for name in (*one["baselines"], *one["cassettes"])}
    gone = [one for one in left if one.name not in kept]
    for sentence in (
        *(f"no test: {one}" for one in gone),
        *(f"kept for {name}: {one['text']}" for name, one in formerly.items()),
    ):
        output.write_text(f"{plain(sentence)}\n", None)
    for way_out in take_along([one for one in renamed if is_taken_along(one)]):
        output.write_text(f"{way_out}\n", None)
    are_cassettes = [one.is_cassette for one in gone]
    number = f"{plural(are_cassettes.count(False), 'baseline')} and {plural(sum(are_cassettes), 'cassette')}"
    if not delete or not gone:
        more = "; `tokenbudget prune --delete` deletes them" if gone else ""
        output.write_text(f"{number} without a test{more}\n", None)
        return 0
    if unseen := [*_unseen(collected)]:
        raise BaselineError(
            f"Nothing is deleted, for nobody knows what has no test: {'; '.join(unseen)}. "
            "Collect the whole suite."
        )
    if unknown := _unknown(asked):
        raise BaselineError(
            "Nothing is deleted, for it may be of a test that was renamed and changed: "
            f"{'; '.join(unknown)}. Record what has no recording, or exclude it; then prune."
        )
    for path, entries in itertools.groupby(gone, lambda one: one.path):
        if names := [ScenarioId(one.name).name for one in entries if not one.is_cassette]:
            baseline_history.remove(root / path, names)
        else:
            (root / path).unlink(missing_ok=True)
    output.write_text(f"deleted {number}\n", None)
    return 0


class _Left(NamedTuple):
    """A baseline or a cassette that no test has by its name."""

    name: str
    """The id of the baseline, or the path of the cassette."""
    path: str
    """The file that it is in, from the root."""

    @property
    def is_cassette(self) -> bool:
        return self.name == self.path

    def __str__(self) -> str:
        return self.name if self.is_cassette else f"baseline of {self.name}"


def _without_test(root: Path, collected: Collected) -> Iterator[_Left]:
    """Yield the baselines, then the cassettes of our own, that no collected test has."""
    for path, file in baseline_history.files(root, PATTERN):
        if _is_seen(root, module_of(path), collected):
            names = [name for name in read_baselines(file) if not _has_test(path, name, collected)]
            yield from (_Left(f"{module_of(path)}::{name}", path) for name in names)
    of_tests = set(collected["cassettes"])
    for path, file in baseline_history.files(root, "**/cassettes/*/*.yaml"):
        module = module_of_cassette(file).relative_to(root).as_posix()
        is_known = path in of_tests or is_of_fixture(file.stem, collected["fixtures"])
        if not is_known and _is_seen(root, module, collected) and is_own(file):
            yield _Left(path, path)


def _unknown(document: Document | None) -> list[str]:
    """Return in words what is not known of tests without a baseline: what they ask, or when they did."""
    if document is None:
        return ["the suite could not be replayed"]
    found = [
        f"{one['id']} has no recording"
        for one in document["scenarios"]
        if one["verdict"] == Verdict.UNRECORDED and one["baseline"] is None and "formerly" not in one
    ]
    committed = set(document["committed"])
    ended = [one for one in document["not_judged"] if one["id"] not in committed]
    return [*found, *(f"{one['id']} was not judged ({one['outcome']})" for one in ended)]


def _unseen(collected: Collected) -> Iterator[str]:
    """Yield in sentences what was left out of the collection."""
    if collected["is_named"]:
        yield "not all of the suite was named"
    if collected["is_partial"] or len(collected["selected"]) < len(collected["tests"]):
        yield "tests were deselected"
    yield from (f"{node} was not collected" for node in collected["unfinished"])
    yield from (f"{node} was skipped" for node in collected["skipped"])


def _is_seen(root: Path, module: str, collected: Collected) -> bool:
    """Return whether a test file or conftest.py is gone or was collected; else its tests are not known."""
    path = PurePosixPath(module)
    if path.name == "conftest.py":
        seen = any(PurePosixPath(other).is_relative_to(path.parent) for other in collected["modules"])
    else:
        seen = module in collected["modules"]
    return seen or not (root / module).is_file()


def _has_test(path: str, name: str, collected: Collected) -> bool:
    """Return whether a baseline belongs to a test or fixture of the suite."""
    scenario = ScenarioId(f"{module_of(path)}::{name}")
    if scenario.kind == "fixture":
        return is_of_fixture(name.replace(" ", "_"), collected["fixtures"])
    return scenario.argument in collected["tests"]
