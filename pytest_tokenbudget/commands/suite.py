"""Run pytest in a process of its own, by this very Python, for `update`, `record`, `advise` and others."""

from __future__ import annotations

import gc
import io
import json
import multiprocessing
import os
import re
import runpy
import shlex
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass
from decimal import ROUND_UP, Decimal
from pathlib import Path
from xml.etree import ElementTree

from pytest_tokenbudget.commands import output
from pytest_tokenbudget.errors import GitError, ReportError
from pytest_tokenbudget.metering.counting import best_counter
from pytest_tokenbudget.metering.models import Family
from pytest_tokenbudget.metering.pricing import Prices
from pytest_tokenbudget.model import Rate
from pytest_tokenbudget.reports import advice_report
from pytest_tokenbudget.reports.document import Document, load
from pytest_tokenbudget.reports.history import read_log
from pytest_tokenbudget.repository.git import Repository
from pytest_tokenbudget.run.results import Collected
from pytest_tokenbudget.run.spending import PlanEntry
from pytest_tokenbudget.settings import load_settings, parse_spend
from pytest_tokenbudget.wording import dollars, money, plural

_LOOK_UP = 1.0
"""Seconds after which a wait is begun anew."""
_LINES = 15
"""How many of pytest's last lines are kept, for the case that it could not run."""
_FAILED = {"failure": "failed", "error": "failed", "skipped": "skipped"}

TestName = tuple[str, str]
"""Class and name of a test, as JUnit files have them."""


@dataclass(frozen=True, slots=True)
class SuiteRun:
    """The result of one run of the suite."""

    status: int
    document: Document | None
    """None if pytest ended before it could write one."""
    outcomes: Mapping[TestName, str]
    """`passed`, `failed` or `skipped`, of every test that ran."""
    said: str
    """The last lines of pytest's own output."""


def pytest(arguments: Sequence[str], folder: Path, environment: Mapping[str, str] | None = None) -> int:
    """Run pytest in `folder`, with its output where ours goes, and return its exit status."""
    command = [sys.executable, "-m", "pytest", *arguments]
    return subprocess.run(command, cwd=folder, env=environment, check=False).returncode  # noqa: S603  # as asked


def measure(arguments: Sequence[str], folder: Path, environment: Mapping[str, str] | None = None) -> SuiteRun:
    """Run the suite in `folder` under --token-budget, quietly. Raises ReportError for a broken document."""
    with tempfile.TemporaryDirectory(prefix="tokenbudget-") as temporary:
        document, junit = Path(temporary) / "document.json", Path(temporary) / "junit.xml"
        given = ["--token-budget", f"--token-budget-report=json:{document}", "--maxfail=0"]
        given += [f"--junitxml={junit}", "--junitprefix=", *arguments]
        status, said = _quietly(given, folder, environment)
        return SuiteRun(
            status,
            load(document) if document.is_file() else None,
            _outcomes(junit) if junit.is_file() else {},
            said,
        )


def _quietly(
    arguments: Sequence[str], folder: Path, environment: Mapping[str, str] | None = None
) -> tuple[int, str]:
    """Run pytest in `folder`; return its exit status and the last lines that it said."""
    with subprocess.Popen(  # noqa: S603  # the user's own tests, as the user asked for
        [sys.executable, "-m", "pytest", *arguments],
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    ) as process:
        try:
            said = _waited(process)
        except BaseException:
            process.kill()
            raise
    return process.returncode, "\n".join(said.rstrip().splitlines()[-_LINES:])


def _waited(process: subprocess.Popen[str]) -> str:
    """Return what a process said when it has ended.

    It looks up now and then: Python heeds a signal that comes right before a read only when that returns.
    """
    while True:
        with suppress(subprocess.TimeoutExpired):
            return process.communicate(timeout=_LOOK_UP)[0]


def collect(arguments: Sequence[str], folder: Path) -> Collected:
    """Let pytest collect the suite in `folder`. Raises ReportError if it cannot."""
    with tempfile.TemporaryDirectory(prefix="tokenbudget-") as temporary:
        file = Path(temporary) / "collected.json"
        given = ["--token-budget", f"--token-budget-collected={file}", "--collect-only", "-q", *arguments]
        _, said = _quietly(given, folder)
        if not file.is_file():
            raise ReportError(f"pytest could not collect the suite:\n{said}\nMend that, then run this again.")
        collected: Collected = json.loads(file.read_text("utf-8"))
        return collected


def _outcomes(junit: Path) -> dict[TestName, str]:
    found: dict[TestName, str] = {}
    for case in ElementTree.parse(junit).iter("testcase"):  # noqa: S314  # the pytest above wrote it
        outcome = next((_FAILED[part.tag] for part in case if part.tag in _FAILED), "passed")
        found[case.get("classname", ""), case.get("name", "")] = outcome
    return found


def junit_name(node_id: str) -> TestName:
    """Return the name of a test in JUnit files.

    It is `("tests.test_a.TestB", "test_c")` for `tests/test_a.py::TestB::test_c`.
    """
    address, bracket, parameters = node_id.partition("[")
    file, *names = address.split("::")
    module = re.sub(r"\.py$", "", file.replace("/", "."))
    *classes, name = [module, *names]
    return ".".join(classes), name + bracket + parameters


def update_baselines(folder: Path, arguments: Sequence[str], kind: str = "update") -> int:
    """Run an update (`update`, `update-all` or `migrate`); return pytest's exit status."""
    return pytest(["--token-budget", f"--token-budget-{kind}", *arguments], folder)


@dataclass(frozen=True, slots=True)
class Plan:
    """What a recording would call, summed over all processes of a replay."""

    scenarios: int
    unchanged: int
    calls: int
    usd: Decimal
    most: Decimal | None
    """Dollars that the calls bill at most; None if unknown."""
    unknown: tuple[str, ...]
    """Scenarios that may call more than is counted."""

    @classmethod
    def of(cls, entries: Sequence[PlanEntry]) -> Plan:
        """Add up the plans of the processes."""
        most = [Decimal(entry["most"]) if entry["most"] is not None else None for entry in entries]
        known = [dollars for dollars in most if dollars is not None]
        return cls(
            sum(entry["scenarios"] for entry in entries),
            sum(entry["unchanged"] for entry in entries),
            sum(entry["calls"] for entry in entries),
            sum((Decimal(entry["usd"]) for entry in entries), Decimal(0)),
            sum(known, Decimal(0)) if len(known) == len(most) else None,
            tuple(name for entry in entries for name in entry["unknown"]),
        )

    def limit(self, given: Decimal | None) -> Decimal | None:
        """Return the spend limit of the recording in dollars: the given one, else what it bills at most.

        None if neither is known.
        """
        if given is not None or self.most is None:
            return given
        return self.most.quantize(Decimal("0.01" if self.most >= 1 else "0.0001"), ROUND_UP)

    def sentences(self, limit: Decimal | None) -> Iterator[str]:
        """Yield what will be called and paid, and what is not known of it."""
        at_least = "at least " if self.unknown else ""
        facts = [plural(self.scenarios, "scenario"), f"{at_least}{plural(self.calls, 'call')}"]
        facts.append(f"{at_least}about {dollars(self.usd)}")
        if limit is not None:
            facts.append(f"at most {money(float(limit))}")
        yield ", ".join(facts)
        if self.unknown:
            first, *more = self.unknown
            others = f" and {len(more):,} more" if more else ""
            yield f"Nobody knows what {first}{others} will call: no recording and no baseline tells."
        if limit is None:
            yield "Nobody knows what it costs at most: --token-budget-max-spend=USD sets a limit."


def record(folder: Path, arguments: Sequence[str], mode: str, *, yes: bool, limit: str | None) -> int:
    """Say what a recording will call and cost, and record if that is wanted.

    The status is pytest's own, 0 if nothing is to be called, and 2 if nobody said yes.
    """
    given = parse_spend(limit)
    with tempfile.TemporaryDirectory(prefix="tokenbudget-") as temporary:
        path = Path(temporary) / "plan.jsonl"
        done = measure([f"--token-budget-plan={mode}:{path}", *arguments], folder)
        if not path.is_file() or done.document is None:
            output.tell(f"{done.said}\nThe suite could not be replayed, so nothing was called.")
            return done.status or 1
        plan = Plan.of([json.loads(line) for line in path.read_text("utf-8").splitlines()])
    failed = [test for test in done.document["not_judged"] if test["outcome"] == "failed"]
    if not plan.scenarios and not failed:
        are = "is" if plan.unchanged == 1 else "are"
        output.tell(f"Nothing to record: {plural(plan.unchanged, 'scenario')} {are} unchanged.")
        return 0
    most = plan.limit(given)
    for sentence in plan.sentences(most):
        output.tell(sentence)
    if failed:
        output.tell(
            f"{plural(len(failed), 'test')} failed before it was measured: what it calls is not counted."
        )
    if not (yes or _wanted()):
        return 2
    held = [] if most is None else [f"--token-budget-max-spend={most}"]
    return pytest([f"--token-budget-record={mode}", *held, *arguments], folder)


def _wanted() -> bool:
    """Ask in a terminal whether to go on; elsewhere, where nobody can answer, say so and return False."""
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        output.tell("Nothing was called: there is no terminal to ask in. --yes goes on without asking.")
        return False
    sys.stderr.write("go on? [y/N] ")
    sys.stderr.flush()
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def write_advice(
    folder: Path, arguments: Sequence[str], form: str = "terminal", log: Path | None = None
) -> int:
    """Write the advice for a suite and return 0; if nothing was measured, return pytest's status.

    A `log` tells what real runs were paid for. Raises ReportError if it cannot be read.
    """
    logged = [] if log is None else read_log(output.read_text(log), str(log))
    runs = load_settings(folder).scenario.runs_per_month
    done = measure(arguments, folder)
    if done.document is None or not done.document["scenarios"]:
        output.tell(f"{done.said}\nNo scenario was measured, so there is nothing to advise on.")
        return done.status or 1
    found = advice_report.advice(done.document, runs, logged)
    lines, markdown = advice_report.advice_lines, advice_report.advice_markdown
    output.write_form(form, found, None, lines=lines, markdown=markdown)
    return 0


_DEMO = Path(__file__).with_name("demo")
_SUFFIXES = {".txt": ".py"}
"""New suffixes of demo files: Python files are kept as text, so that they are no modules of the package."""
_JUDGE, _ACCEPT = ("--token-budget", "-q"), ("--token-budget", "--token-budget-update", "-q")
_WITHOUT = ("ANTHROPIC_", "PYTEST_ADDOPTS", "CI")
"""Beginnings of variables that the demo runs without: it needs no key, and looks the same everywhere."""


def demo(folder: Path) -> int:
    """Show a small agent in `folder`: green, changed and red, accepted, changed again and red for that alone.

    The folder is made, and stays to play with. Returns 0, or 1 if a run does not end as it should. Raises
    ReportError for a folder that holds something.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ReportError(f"{folder} holds something already. Name a new folder: tokenbudget demo FOLDER.")
    for file in (path for path in _DEMO.rglob("*") if path.is_file() and path.parent != _DEMO / "changes"):
        copy = folder / file.relative_to(_DEMO)
        copy = copy.with_suffix(_SUFFIXES.get(copy.suffix, copy.suffix))
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(file.read_bytes())
    steps: tuple[tuple[str, Callable[[Path], None] | None, Sequence[str], int], ...] = (
        ("1. A support agent, two scenarios: recorded answers, no model is asked.", None, _JUDGE, 0),
        ('2. Somebody adds examples to the prompt, "so that it sounds more like us".', _examples, _JUDGE, 1),
        ("3. The answers are worth it: the new cost is accepted.", None, _ACCEPT, 0),
        ("4. Somebody describes the tool at length. Only that is told.", _description, _JUDGE, 1),
    )
    run = _forked if _preload() else _started
    repository = _repository(folder)
    for what, change, arguments, expected in steps:
        if change:
            change(folder)
        _say(f"\n{what}\n$ pytest {shlex.join(arguments)}")
        if run(arguments, folder) != expected:
            _say(f"This run should have ended with status {expected}. Please report it.")
            return 1
        if repository and arguments is _ACCEPT:
            repository.commit_all("Examples in the prompt")
    _say(f"\nAll of it is in {folder}, red as step 4 left it: undo that in agent.py, or accept")
    _say("it as in step 3.")
    if repository:
        _say("It is a git repository: `git diff` shows step 4, `tokenbudget history` what was accepted.")
    _say("Then change a prompt yourself, and run")
    _say(f"  cd {shlex.quote(str(folder))} && pytest --token-budget")
    return 0


def _repository(folder: Path) -> Repository | None:
    """Keep the demo in a repository of its own; None without git, or if the folder is in one already."""
    with suppress(GitError):
        Repository.open(folder)
        return None
    with suppress(GitError):
        (folder / ".gitignore").write_text("__pycache__/\n", "utf-8")
        repository = Repository.create(folder)
        repository.commit_all("A support agent")
        return repository
    return None


def _examples(folder: Path) -> None:
    prompt = folder / "prompts" / "support.md"
    prompt.write_text(prompt.read_text("utf-8") + _change("examples.md"), "utf-8")


def _description(folder: Path) -> None:
    agent, was = folder / "agent.py", "Looks an order up by its number."
    agent.write_text(agent.read_text("utf-8").replace(was, _change("description.md").strip()), "utf-8")


def _change(name: str) -> str:
    return (_DEMO / "changes" / name).read_text("utf-8")


def _started(arguments: Sequence[str], folder: Path) -> int:
    """Run pytest in a new process, without keys, and return its exit status."""
    return pytest(arguments, folder, _keyless())


def _forked(arguments: Sequence[str], folder: Path) -> int | None:
    """Run pytest in a fork of this process, without keys, and return its exit status."""
    process = multiprocessing.get_context("fork").Process(target=_become_pytest, args=(arguments, folder))
    process.start()
    _load_counting()  # for the runs after it, while it runs
    process.join()
    return process.exitcode


def _preload() -> bool:
    """Import what every run of the demo needs; return whether they may be forked from this process.

    Imports are most of a short run. Linux alone is sure to survive a fork without a new program.
    """
    if sys.platform != "linux":
        return False
    quiet = io.StringIO()
    with (
        tempfile.TemporaryDirectory() as empty,
        redirect_stdout(quiet),
        redirect_stderr(quiet),
        suppress(SystemExit),
    ):
        apart = [f"--rootdir={empty}", f"--confcutdir={empty}"]  # else all that lies beside is looked at
        _run_pytest(["--token-budget", "--noconftest", "-c", os.devnull, *apart, empty])
    return threading.active_count() == 1  # a plugin may have started one


def _load_counting() -> None:
    """Load what counts and prices changed prompts; both load it with their first question, and once."""
    Prices().card(Rate("any"))
    best_counter().count("any", Family.V3)
    gc.freeze()  # pytest collects garbage ten times at its end


def _become_pytest(arguments: Sequence[str], folder: Path) -> None:
    """Run pytest in this process, which ends with its exit status."""
    environment = _keyless()
    environment["PYTEST_ADDOPTS"] = "-W ignore::pytest.PytestAssertRewriteWarning"  # of what is preloaded
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    _run_pytest(arguments)


def _run_pytest(arguments: Sequence[str]) -> None:
    sys.argv[:] = ["pytest", *arguments]
    runpy.run_module("pytest", run_name="__main__", alter_sys=True)


def _keyless() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith(_WITHOUT)}


def _say(text: str) -> None:
    """Write a line ahead of the output of the next pytest."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()
