"""Ways to hide a prompt that is much larger: what each ends in, and why.

`FAILS`: the run fails. `TOLD`: the run passes, and its last line says what it did not judge. `SHOWN`: an
author may do so on purpose, and whoever reviews sees it in what is committed, or by a missing document.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import pytest

from support.budgeted import Project, run_apart
from support.messages_api import MessagesApi
from support.scratch_suites import AGENT, INI, TWO, echo, make, record

pytestmark = pytest.mark.newest

OTHER = "def test_that_asks_nothing():\n    pass\n"
LARGER = "Be brief. " + "Say so in full sentences, and never promise a date of delivery to anybody. " * 15
MOCK = "def ask(words):\n    return f'You said {words}'\n"
EXIT = "pytest.exit('enough', returncode=0)"
FALLBACK = AGENT.replace("Be brief.", LARGER).replace(
    "    headers",
    "    try:\n        return call(body)\n    except Exception:\n        return f'You said {words}'\n\n\n"
    "def call(body):\n    headers",
)
OF_UNITTEST = """
import unittest

from agent import ask


class TestIt(unittest.TestCase):
    @unittest.skip("later")
    def test_parcel(self):
        ask("One")
"""
OF_ITEMS = "def pytest_collection_modifyitems(items):\n"
TURNED = """
@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_makereport():
    report = yield
    report.outcome = "passed"
    return report
"""
SWALLOWS = """
@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_call():
    try:
        return (yield)
    except BaseException:
        return None
"""
STRIPS = """
@pytest.hookimpl(tryfirst=True)
def pytest_runtest_logreport(report):
    report.user_properties.clear()
    for name in [name for name in vars(report) if name.startswith("token")]:
        delattr(report, name)
"""
EACH = "    for item in items:\n        item.add_marker("
IGNORES = """
def pytest_ignore_collect(collection_path):
    return collection_path.name == "test_it.py" or None
"""
FAILS, TOLD, SHOWN = "fails", "told", "shown"


@dataclass(frozen=True)
class Way:
    """One way: what somebody writes, and what it ends in."""

    name: str
    ends: str
    why: str
    says: str
    """Words of the output."""
    do: Callable[[Path], object] = lambda _: None
    options: tuple[str, ...] = ()
    status: int | None = None
    lines: int = 1
    """How many lines say what was judged."""
    exact: bool = False
    """Whether only the exact counter proves it: so short a prompt fits what the built-in one is unsure of."""


def put(name: str, text: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_text(text, "utf-8")


def swap(was: str, now: str, name: str = "test_it.py") -> Callable[[Path], object]:
    def do(folder: Path) -> None:
        text = (folder / name).read_text("utf-8")
        assert was in text
        (folder / name).write_text(text.replace(was, now), "utf-8")

    return do


def in_cassettes(was: str, now: str) -> Callable[[Path], object]:
    """Edit both recordings."""

    def do(folder: Path) -> None:
        for test in ("test_parcel", "test_letter"):
            swap(was, now, f"cassettes/test_it/{test}.yaml")(folder)

    return do


def remove(*names: str) -> Callable[[Path], object]:
    def do(folder: Path) -> None:
        for name in names:
            path = folder / name
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    return do


def ini(line: str) -> Callable[[Path], object]:
    return put("pytest.ini", INI + line + "\n")


def hook(text: str) -> Callable[[Path], object]:
    return put("conftest.py", f"import pytest\n\n\n{text}\n")


def settings(text: str, table: str = "tool.tokenbudget") -> Callable[[Path], object]:
    return put("pyproject.toml", f"[{table}]\n{text}\n")


def in_body(line: str) -> Callable[[Path], object]:
    """Put a line in front of what each test does."""
    return swap("    assert ask(", f"    {line}\n    assert ask(")


def after(line: str) -> Callable[[Path], object]:
    return lambda folder: (folder / "test_it.py").write_text(
        TWO.replace('One"\n\n', f'One"\n    {line}\n\n').replace('Two"\n', f'Two"\n    {line}\n'), "utf-8"
    )


def twice(folder: Path) -> None:
    """Repeat all scenarios with larger numbers, as a union of two branches has them."""
    path = folder / "token_budgets" / "test_it.yaml"
    text = path.read_text("utf-8")
    scenarios = text.partition("scenarios:\n")[2]
    path.write_text(text + scenarios.replace("input_tokens: 11", "input_tokens: 900"), "utf-8")


MARK = "@pytest.mark.token_budget\n"
JUDGED = "its prompt is measured whatever is around it"
UNJUDGED = "a test that was collected and ends without a verdict is no failure, and no success either"
LOST = "its baseline is committed, its folder was run, and nothing stands for it"
CHOSEN = "whoever chooses tests claims nothing of the others; the line says how little was judged"
COMMITTED = "it stands in what is committed"
NO_ANSWER = "what is asked now is not what was recorded"
CLOSED = "a call that no scenario meters is refused"
RESET = "the verdict counts, not the status that somebody sets"

WAYS = [
    Way("nothing is hidden", FAILS, JUDGED, "2 over"),
    # skipped, or failing as expected
    Way("skip", TOLD, UNJUDGED, "2 not judged", swap(MARK, MARK + "@pytest.mark.skip\n")),
    Way(
        "skipif", TOLD, UNJUDGED, "2 not judged", swap(MARK, MARK + "@pytest.mark.skipif(True, reason='x')\n")
    ),
    Way(
        "skip of the module",
        TOLD,
        UNJUDGED,
        "2 not judged",
        swap("import pytest\n", "import pytest\npytestmark = pytest.mark.skip\n"),
    ),
    Way("skip before the calls", TOLD, UNJUDGED, "2 not judged", in_body("pytest.skip('later')")),
    Way("skip after the calls", TOLD, UNJUDGED, "2 not judged", after("pytest.skip('later')")),
    Way(
        "skip at import",
        TOLD,
        UNJUDGED,
        "2 unmeasured",
        swap("import pytest\n", "import pytest\npytest.skip('x', allow_module_level=True)\n"),
    ),
    Way(
        "importorskip",
        TOLD,
        UNJUDGED,
        "2 unmeasured",
        swap("import pytest\n", "import pytest\npytest.importorskip('nowhere_at_all')\n"),
    ),
    Way(
        "skip by a conftest",
        TOLD,
        UNJUDGED,
        "2 not judged",
        hook(OF_ITEMS + "    for item in items:\n        item.add_marker(pytest.mark.skip)"),
    ),
    Way(
        "skip by a fixture",
        TOLD,
        UNJUDGED,
        "2 not judged",
        hook("@pytest.fixture(autouse=True)\ndef skips():\n    pytest.skip('x')"),
    ),
    Way(
        "xfail of a failing body",
        TOLD,
        UNJUDGED,
        "2 not judged",
        lambda at: (swap(MARK, MARK + "@pytest.mark.xfail\n")(at), swap("You said", "You meant")(at)),
    ),
    Way("xfail of a passing body", FAILS, JUDGED, "2 over", swap(MARK, MARK + "@pytest.mark.xfail\n")),
    Way(
        "xfail of any error",
        FAILS,
        JUDGED,
        "2 over",
        swap(MARK, MARK + "@pytest.mark.xfail(raises=BaseException)\n"),
    ),
    Way(
        "xfail that does not run",
        TOLD,
        UNJUDGED,
        "2 not judged",
        swap(MARK, MARK + "@pytest.mark.xfail(run=False)\n"),
    ),
    Way("a failing body", FAILS, UNJUDGED, "2 not judged", swap("You said", "You meant")),
    Way(
        "a fixture that fails",
        FAILS,
        UNJUDGED,
        "2 not judged",
        hook("@pytest.fixture(autouse=True)\ndef fails():\n    raise ValueError"),
    ),
    # tests that are gone
    Way(
        "a marker that a conftest adds",
        SHOWN,
        COMMITTED,
        "2 within",
        hook(f"{OF_ITEMS}{EACH}pytest.mark.token_budget(tolerance='900% or 900'))"),
    ),
    Way(
        "an exclusion that a conftest adds",
        TOLD,
        COMMITTED,
        "3 excluded",
        hook(f"{OF_ITEMS}{EACH}pytest.mark.token_budget(exclude='x'))"),
    ),
    Way("a removed test", FAILS, LOST, "1 unmeasured", swap(TWO[TWO.rindex("\n\n\n") :], "\n")),
    Way("a renamed test", FAILS, LOST, "2 unmeasured", swap("def test_", "def test_new_")),
    Way("a removed file", FAILS, LOST, "2 unmeasured", remove("test_it.py")),
    Way("a renamed file", FAILS, LOST, "2 unmeasured", lambda at: (at / "test_it.py").rename(at / "it.py")),
    Way(
        "a class of another name",
        FAILS,
        LOST,
        "2 unmeasured",
        lambda at: put("test_it.py", TWO.replace("def test_", "def check_"))(at),
    ),
    Way("another python_files", FAILS, LOST, "2 unmeasured", ini("python_files = test_other.py")),
    Way("another python_functions", FAILS, LOST, "2 unmeasured", ini("python_functions = test_that_*")),
    Way("collect_ignore", FAILS, LOST, "2 unmeasured", hook("collect_ignore = ['test_it.py']")),
    Way("pytest_ignore_collect", FAILS, LOST, "2 unmeasured", hook(IGNORES)),
    Way("--ignore in addopts", FAILS, LOST, "2 unmeasured", ini("addopts = --ignore=test_it.py")),
    Way(
        "tests that say they are none",
        FAILS,
        LOST,
        "2 unmeasured",
        put("test_it.py", f"{TWO}\n\nfor test in (test_parcel, test_letter):\n    test.__test__ = False\n"),
    ),
    Way(
        "a test case of unittest that is skipped", FAILS, LOST, "2 unmeasured", put("test_it.py", OF_UNITTEST)
    ),
    Way(
        "tests of the same name below",
        FAILS,
        NO_ANSWER,
        "2 stale",
        put("test_it.py", f"{TWO}\n\ndef test_parcel():\n    pass\n\n\ndef test_letter():\n    pass\n"),
    ),
    Way(
        "parameters that are empty",
        FAILS,
        LOST,
        "2 not judged; 2 unmeasured",
        swap("def test_", "@pytest.mark.parametrize((), [])\ndef test_"),
    ),
    Way("coroutines without a plugin", FAILS, UNJUDGED, "2 not judged", swap("def test_", "async def test_")),
    # tests that are not chosen
    Way(
        "other testpaths",
        SHOWN,
        CHOSEN,
        "0 scenarios",
        lambda at: ((at / "sub").mkdir(), put("sub/test_sub.py", OTHER)(at), ini("testpaths = sub")(at)),
    ),
    Way("--deselect in addopts", SHOWN, CHOSEN, "0 scenarios", ini("addopts = --deselect=test_it.py")),
    Way("-k in addopts", SHOWN, CHOSEN, "0 scenarios", ini("addopts = -k asks_nothing")),
    Way("-m in addopts", SHOWN, CHOSEN, "0 scenarios", ini('addopts = -m "not token_budget"')),
    Way(
        "a conftest that removes tests",
        SHOWN,
        CHOSEN,
        "0 scenarios",
        hook(OF_ITEMS + "    items[:] = [item for item in items if 'asks' in item.name]"),
    ),
    Way("--collect-only in addopts", SHOWN, CHOSEN, "0 scenarios", ini("addopts = --collect-only")),
    # tests that never run
    Way(
        "pytest.exit in a test", FAILS, RESET, "2 unmeasured", in_body("pytest.exit('enough', returncode=0)")
    ),
    Way(
        "pytest.exit at the start",
        SHOWN,
        "there is no document",
        "enough",
        hook(f"def pytest_sessionstart():\n    {EXIT}"),
        lines=0,
    ),
    Way(
        "pytest.exit instead of collection",
        FAILS,
        RESET,
        "The run ended before",
        hook(f"def pytest_collection():\n    {EXIT}"),
    ),
    Way(
        "pytest.exit after collection",
        FAILS,
        RESET,
        "2 unmeasured",
        hook("def pytest_collection_finish():\n    pytest.exit('enough', returncode=0)"),
    ),
    Way(
        "a loop of nothing", FAILS, RESET, "2 unmeasured", hook("def pytest_runtestloop():\n    return True")
    ),
    Way(
        "a protocol of nothing",
        FAILS,
        RESET,
        "2 unmeasured",
        hook("def pytest_runtest_protocol():\n    return True"),
    ),
    Way("a call of nothing", FAILS, NO_ANSWER, "2 ", hook("def pytest_pyfunc_call():\n    return True")),
    Way("--setup-plan in addopts", FAILS, LOST, "2 unmeasured", ini("addopts = --setup-plan")),
    Way("--setup-only in addopts", FAILS, LOST, "2 unmeasured", ini("addopts = --setup-only")),
    # exit status
    Way("an exit in the test", FAILS, UNJUDGED, "2 not judged", in_body("import sys; sys.exit(0)")),
    Way(
        "errors that are taken away",
        FAILS,
        RESET,
        "2 over",
        hook(
            "@pytest.hookimpl(tryfirst=True)\ndef pytest_runtest_makereport(call):\n    call.excinfo = None"
        ),
    ),
    Way(
        "a status that is reset",
        FAILS,
        RESET,
        "2 over",
        hook("def pytest_sessionfinish(session):\n    session.exitstatus = 0"),
    ),
    Way(
        "a status that is reset last",
        FAILS,
        RESET,
        "2 over",
        hook(
            "@pytest.hookimpl(trylast=True)\ndef pytest_sessionfinish(session):\n    session.exitstatus = 0"
        ),
    ),
    Way("reports that are turned", FAILS, RESET, "2 over", hook(TURNED)),
    Way("a call that a hook swallows", FAILS, RESET, "2 over", hook(SWALLOWS)),
    Way("reports that are stripped", FAILS, RESET, "2 over", hook(STRIPS)),
    # options
    Way(
        "--token-budget-disable in addopts",
        SHOWN,
        "there is no document",
        "--token-budget-disable",
        lambda at: (ini("addopts = --token-budget-disable")(at), put("agent.py", MOCK)(at)),
    ),
    Way(
        "-p no:tokenbudget in addopts",
        FAILS,
        "the option is unknown then",
        "unrecognized arguments",
        ini("addopts = -p no:tokenbudget"),
        status=4,
        lines=0,
    ),
    Way(
        "--token-budget-update in addopts",
        SHOWN,
        "each acceptance is told, and the baselines are changed",
        "accepted test_it.py::test_parcel",
        ini("addopts = --token-budget-update"),
    ),
    Way(
        "an option that a conftest clears",
        SHOWN,
        "there is no document",
        "3 passed",
        hook("def pytest_configure(config):\n    config.option.token_budget = False"),
        lines=0,
    ),
    Way("reruns", FAILS, JUDGED, "2 over", options=("--reruns", "1")),
    Way("nothing is shown", FAILS, JUDGED, "", options=("-q", "--no-summary", "--tb=no")),
    Way("warnings are ignored", FAILS, JUDGED, "2 over", options=("-p", "no:warnings")),
    Way("another root", FAILS, JUDGED, "2 over", lambda at: (at / "sub").mkdir(), options=("--rootdir=sub",)),
    Way(
        "an option that a conftest sets",
        SHOWN,
        "each acceptance is told, and the baselines are changed",
        "accepted test_it.py::test_parcel",
        hook("def pytest_configure(config):\n    config.option.token_budget_update = True"),
    ),
    # settings and markers
    Way("tolerance in the settings", SHOWN, COMMITTED, "2 within", settings('tolerance = "900% or 900"')),
    Way(
        "tolerance in the marker",
        SHOWN,
        COMMITTED,
        "2 within",
        swap(MARK, '@pytest.mark.token_budget(tolerance="900% or 900")\n'),
    ),
    Way("a cap is no tolerance", FAILS, JUDGED, "2 over", settings("max_prompt_tokens = 9_000")),
    Way("exclude in the settings", TOLD, COMMITTED, "2 excluded", settings('exclude = ["test_it.py"]')),
    Way(
        "exclude in the marker",
        TOLD,
        COMMITTED,
        "2 excluded",
        swap(MARK, '@pytest.mark.token_budget(exclude="x")\n'),
    ),
    Way(
        "a table by another name",
        FAILS,
        "it would be read by nobody",
        "Write [tool.tokenbudget]",
        settings('tolerance = "900%"', "tool.token_budget"),
        status=4,
        lines=0,
    ),
    Way(
        "redaction of all that is new",
        FAILS,
        JUDGED,
        "2 over",
        settings('redact = ["(?s)Say so.*"]'),
    ),
    Way("a host that is ignored", FAILS, JUDGED, "2 over", settings('ignored_hosts = ["*"]')),
    # markers and mocks
    Way(
        "calls that may be unmetered, and an answer in their place",
        FAILS,
        NO_ANSWER,
        "2 stale",
        lambda at: (
            settings("allow_unmetered = true")(at),
            swap(MARK, "")(at),
            put("agent.py", FALLBACK)(at),
        ),
    ),
    Way("an answer where the call fails", FAILS, JUDGED, "2 over", put("agent.py", FALLBACK)),
    Way(
        "errors that are suppressed",
        FAILS,
        JUDGED,
        "2 over",
        swap(
            "    assert ask(",
            "    import contextlib\n    with contextlib.suppress(BaseException):\n        assert ask(",
        ),
    ),
    Way("no marker", FAILS, CLOSED, "Its marker was forgotten", swap(MARK, "")),
    Way(
        "a marker by another name",
        FAILS,
        CLOSED,
        "Its marker was forgotten",
        swap(MARK, "@pytest.mark.token_budgets\n"),
        ("-W", "ignore"),
    ),
    Way(
        "markers that are taken off",
        FAILS,
        CLOSED,
        "Its marker was forgotten",
        hook(OF_ITEMS + "    for item in items:\n        item.own_markers.clear()"),
    ),
    Way("an answer of the agent's own", FAILS, NO_ANSWER, "2 ", put("agent.py", MOCK)),
    Way("a return before the calls", FAILS, NO_ANSWER, "2 ", in_body("return")),
    # what is committed
    Way("no cassettes", FAILS, NO_ANSWER, "2 ", remove("cassettes")),
    Way("no baselines", FAILS, "what has no baseline is new", "2 new", remove("token_budgets")),
    Way(
        "an empty file of baselines",
        FAILS,
        "what has no baseline is new",
        "2 new",
        put("token_budgets/test_it.yaml", "version: 1\nscenarios: {}\n"),
    ),
    Way(
        "a broken file of baselines",
        FAILS,
        "it cannot be read",
        "2 not judged",
        put("token_budgets/test_it.yaml", "version: 1\nscenarios: [\n"),
    ),
    Way(
        "raised baselines",
        SHOWN,
        COMMITTED,
        "2 ",
        swap("input_tokens: 11", "input_tokens: 900", "token_budgets/test_it.yaml"),
    ),
    Way(
        "a scenario that stands twice in the baselines",
        FAILS,
        "a union of two branches says nothing, and the larger of both is not taken",
        "2 not judged",
        twice,
    ),
    Way(
        "a tolerance without end",
        FAILS,
        "a limit is a number",
        "tolerance",
        settings('tolerance = "inf%"'),
        status=4,
        lines=0,
    ),
    Way(
        "usage that is edited",
        FAILS,
        JUDGED,
        "2 over",
        in_cassettes("usage: {input_tokens: 11,", "usage: {input_tokens: 1,"),
    ),
    Way(
        "a cassette of the larger prompt with the usage of before",
        FAILS,
        "usage that cannot be that of its prompt is checked where the recording is another",
        "usage does not fit its prompt",
        in_cassettes("Be brief.", LARGER.strip()),
        exact=True,
    ),
]


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return where the recorded suite is kept."""
    return tmp_path_factory.mktemp("template") / "suite"


@pytest.fixture
def project(template: Path, tmp_path: Path, pytester: pytest.Pytester) -> Project:
    """Return a copy of the suite whose prompt has grown since it was recorded."""
    if not template.exists():
        with MessagesApi(echo) as api:
            record(make(template, pytester, TWO, test_other=OTHER), api, 2)
    shutil.copytree(template, tmp_path / "suite", ignore=shutil.ignore_patterns("report.json"))
    (tmp_path / "suite" / "agent.py").write_text(AGENT.replace("Be brief.", LARGER), "utf-8")
    return Project(tmp_path / "suite", pytester)


@pytest.mark.parametrize("way", WAYS, ids=[way.name for way in WAYS])
def test_a_way_to_hide_a_larger_prompt(project: Project, way: Way) -> None:
    if way.exact and find_spec("ctok") is None:
        pytest.skip("ctok needs Python 3.12 or newer")
    way.do(project.path)
    done = project.run("--token-budget", *way.options)
    expected = way.status if way.status is not None else 1 if way.ends == FAILS else 0
    assert (done.status, way.says in done.output) == (expected, True), done.output
    lines = [line for line in done.output.splitlines() if line.startswith("token budgets: ")]
    assert len(lines) == way.lines, done.output


def test_a_process_that_ends_by_itself_leaves_no_document(project: Project) -> None:
    in_body("import os; os._exit(0)")(project.path)
    done = run_apart(project.path, "--token-budget", "--token-budget-report=json:report.json")
    assert done.status == 0
    assert not (project.path / "report.json").exists()  # which the action demands
