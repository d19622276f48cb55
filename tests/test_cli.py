"""The command line itself: what it understands, and how it fails."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from pytest_tokenbudget import __version__, cli

COMMANDS = ("update", "show", "diff", "report", "merge", "history", "blame", "advise", "comment", "prune")


def run(*arguments: str, folder: Path | None = None, code: str = "") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *(["-c", code] if code else ["-m", "pytest_tokenbudget"]), *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=600)


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        cli.main(["--help"])
    assert stopped.value.code == 0
    shown = capsys.readouterr().out
    assert all(f"  {name} " in shown for name in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        cli.main([command, "-h"])
    assert stopped.value.code == 0
    assert f"usage: tokenbudget {command}" in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments",
    [[], ["unknown"], ["show", "--nothing"], ["merge", "a.json"], ["report"], ["diff", "a", "b"], ["blame"]],
    ids=" ".join,
)
def test_what_it_does_not_understand(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        cli.main(arguments)
    assert stopped.value.code == 2
    assert "usage: tokenbudget" in capsys.readouterr().err


GIVEN = [
    (["-k", "a or b"], ["-k", "a or b"]),
    (["tests/a.py::test[x]", "-x", "tests/b.py"], ["tests/a.py::test[x]", "-x", "tests/b.py"]),
    (["--", "-h", "--format", "x"], ["-h", "--format", "x"]),
    (["-p", "no:randomly", "--", "tests"], ["-p", "no:randomly", "--", "tests"]),
    (["--durations=3", "-n2", "--form"], ["--durations=3", "-n2", "--form"]),
    ([], []),
]


@pytest.mark.parametrize(
    ("given", "handed_on"), GIVEN, ids=[" ".join(given) or "nothing" for given, _ in GIVEN]
)
@pytest.mark.parametrize("command", ["update", "record", "advise", "blame"])
def test_all_else_goes_to_pytest(
    monkeypatch: pytest.MonkeyPatch, command: str, given: list[str], handed_on: list[str]
) -> None:
    from pytest_tokenbudget.commands import blame, suite

    seen: list[list[str]] = []
    monkeypatch.setattr(suite, "update_baselines", lambda folder, rest, kind: seen.append(rest) or 7)
    monkeypatch.setattr(suite, "write_advice", lambda folder, rest, form, log: seen.append(rest) or 7)
    monkeypatch.setattr(suite, "record", lambda folder, rest, mode, **_: seen.append(rest) or 7)
    monkeypatch.setattr(blame, "run", lambda folder, range_, rest, **_: seen.append(rest) or 7)
    own = {
        "update": [],
        "record": ["--all", "--yes"],
        "advise": ["--format", "json"],
        "blame": ["a..b", "--format", "json"],
    }[command]
    assert cli.main([command, *own, *given]) == 7
    assert seen == [handed_on]


@pytest.mark.parametrize(
    ("given", "kind"), [([], "update"), (["--all"], "update-all"), (["--migrate"], "migrate")]
)
def test_what_an_update_writes(monkeypatch: pytest.MonkeyPatch, given: list[str], kind: str) -> None:
    from pytest_tokenbudget.commands import suite

    seen: list[list[str]] = []
    monkeypatch.setattr(suite, "pytest", lambda arguments, folder: seen.append(arguments) or 7)
    assert cli.main(["update", *given, "tests"]) == 7
    assert seen == [["--token-budget", f"--token-budget-{kind}", "tests"]]


def test_an_error_is_a_sentence_and_status_2(tmp_path: Path) -> None:
    done = run("diff", folder=tmp_path)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith(f"tokenbudget diff: {tmp_path} is not in the working tree")


def test_an_error_that_quotes_a_stranger_is_one_line_and_no_command(tmp_path: Path) -> None:
    said = run("report", "a\n::add-mask::1 \x1b[31m.json", folder=tmp_path).stderr
    assert said.startswith(r"tokenbudget report: a\n::add-mask::1 \x1b[31m.json cannot be read: ")
    assert said.splitlines()[1:] == ["More: docs/commands.md#the-document"]


def test_a_reader_that_has_seen_enough(tmp_path: Path) -> None:
    (tmp_path / "token_budgets").mkdir()
    text = "version: 1\nscenarios:\n" + "".join(
        f"  test_{n}:\n    turns: 1\n    models: {{}}\n" for n in range(5000)
    )
    (tmp_path / "token_budgets/test_a.yaml").write_text(text, "utf-8")
    line = f"{sys.executable} -m pytest_tokenbudget show | head -1"
    done = subprocess.run(line, shell=True, cwd=tmp_path, capture_output=True, text=True)
    assert done.stderr == ""
    assert done.stdout.startswith("scenario   turns  prompt")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_is_told_in_one_sentence(tmp_path: Path) -> None:
    line = f"{sys.executable} -m pytest_tokenbudget show > /dev/full"
    done = subprocess.run(line, shell=True, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2
    said = "Standard output cannot be written: No space left on device. Send it where there is room."
    assert done.stderr == f"tokenbudget show: {said}\nMore: docs/commands.md#the-document\n"


def test_a_console_of_few_characters(tmp_path: Path) -> None:
    (tmp_path / "token_budgets").mkdir()
    text = 'version: 1\nscenarios:\n  "test_naïve→":\n    turns: 1\n    models: {}\n'
    (tmp_path / "token_budgets/test_a.yaml").write_text(text, "utf-8")
    done = subprocess.run(
        [sys.executable, "-X", "utf8=0", "-m", "pytest_tokenbudget", "show"],
        cwd=tmp_path,
        env={"PYTHONIOENCODING": "ascii", "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert r"test_na\xefve->" in done.stdout


def test_starting_it_imports_little() -> None:
    code = "import sys, pytest_tokenbudget.cli; print(*sorted({name.split('.')[0] for name in sys.modules}))"
    loaded = set(run(code=code).stdout.split())
    assert not loaded & {"pytest", "vcr", "yaml", "genai_prices", "ctok", "anthropic", "tabulate", "jinja2"}


def test_the_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["--version"])
    assert capsys.readouterr().out == f"pytest-tokenbudget {__version__}\n"


@pytest.mark.parametrize(
    "arguments",
    [
        ["history", "--commits", "0"],
        ["history", "--commits", "many"],
        ["merge", "--expect", "-1", "-o", "x", "a"],
        ["comment", "--runs-per-month", "0", "a"],
    ],
)
def test_a_number_is_from_one_on(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(arguments)
    assert ended.value.code == 2
    assert "is not a number from 1 on" in capsys.readouterr().err
