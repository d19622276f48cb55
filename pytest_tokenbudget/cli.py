"""Parse the arguments of the `tokenbudget` command and call the command they name."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from pytest_tokenbudget import __version__
from pytest_tokenbudget.errors import TokenBudgetError

_ERROR = 2_000
"""Most characters of an error that are printed: it may quote what a stranger wrote."""

Command = Callable[[argparse.Namespace, list[str]], int]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status.

    It is 0, pytest's own, 130 after an interrupt, or 2 with the reason on standard error.
    """
    parser = _parser()
    given, rest = parser.parse_known_args(arguments)
    if rest and not given.for_pytest:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    run: Command = given.run
    try:
        return run(given, rest[1:] if rest[:1] == ["--"] else rest)
    except TokenBudgetError as error:
        from pytest_tokenbudget.files import seen_from
        from pytest_tokenbudget.replay.redaction import Redactor
        from pytest_tokenbudget.reports.text import printable_lines

        said = seen_from(Path.cwd(), Redactor(os.environ).text(str(error)))
        told = printable_lines(said, _ERROR)
        print(f"tokenbudget {given.command}: {told}\n{error.more}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="tokenbudget",
        description="Token budgets of the scenarios of a pytest suite. Run it where you run pytest.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"pytest-tokenbudget {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def add(name: str, run: Command, text: str, *, for_pytest: bool = False) -> argparse.ArgumentParser:
        usage = " All other arguments go to pytest." if for_pytest else ""
        command = commands.add_parser(name, help=text, description=f"{text}{usage}", allow_abbrev=False)
        command.set_defaults(run=run, for_pytest=for_pytest)
        return command

    _add_suite(add)
    _add_reports(add)
    _add_git(add)
    return parser


Add = Callable[..., argparse.ArgumentParser]


def _add_suite(add: Add) -> None:
    text = "Replay, and write the baselines of what failed or improved, and of tests named by node id."
    update = add("update", _update, text, for_pytest=True)
    which = update.add_mutually_exclusive_group()
    which.add_argument("--all", action="store_true", help="write what changed within its tolerance as well")
    which.add_argument(
        "--migrate",
        action="store_true",
        help="only write baselines of version 1 that still hold as version 2",
    )
    record = add("record", _record, "Say what a recording costs, and record.", for_pytest=True)
    which = record.add_mutually_exclusive_group()
    which.add_argument("--changed", action="store_true", help="what is stale, changed or new: by default")
    which.add_argument("--all", action="store_true", help="everything anew")
    record.add_argument("--yes", action="store_true", help="go on without asking")
    record.add_argument("--token-budget-max-spend", dest="max_spend", metavar="USD", help="spend no more")
    advise = add("advise", _advise, "Replay, and tell what would be cheaper.", for_pytest=True)
    _format(advise, "terminal", "markdown", "json")
    advise.add_argument("--log", type=Path, metavar="FILE", help="tell what the runs in a log were paid for")
    demo = add("demo", _demo, "Show a small agent green, changed and red, accepted: no key, no network.")
    demo.add_argument("folder", nargs="?", type=Path, default=Path("token-budget-demo"), metavar="FOLDER")
    show = add("show", _show, "Show the baselines below this folder.")
    show.add_argument("paths", nargs="*", metavar="PATH", help="of these test files and folders only")
    _format(show, "terminal", "json")


def _add_reports(add: Add) -> None:
    report = add("report", _report, "Tell a JSON document in another form; several are merged first.")
    report.add_argument("documents", nargs="+", type=Path, metavar="IN")
    _format(report, "terminal", "markdown", "markdown-comment", "github", "otel", "html")
    report.add_argument("--diff", type=Path, metavar="JSON", help="of `tokenbudget diff`, below the Markdown")
    _output(report)
    merge = add("merge", _merge, "Merge the JSON documents of several shards.")
    merge.add_argument("documents", nargs="+", type=Path, metavar="IN")
    merge.add_argument("-o", "--output", type=Path, metavar="FILE", required=True)
    merge.add_argument("--expect", type=_from_one, metavar="N", help="how many shards there are")
    check = add("check", _check, "Hold the document of a run against what is committed: 1 where it fails.")
    check.add_argument(
        "documents", nargs="+", type=Path, metavar="IN", help="JSON documents, or folders of CI artifacts"
    )
    check.add_argument("--base", metavar="BASE", help="also tell what changed since HEAD left this branch")
    check.add_argument("--partial", action="store_true", help="the run took a part of the suite on purpose")
    _output(check)
    comment = add("comment", _comment, "Comment on the pull request of a workflow run, in GitHub Actions.")
    comment.add_argument("documents", nargs="+", type=Path, metavar="IN")
    comment.add_argument("--diff", type=Path, metavar="JSON", help="of `tokenbudget diff`")
    comment.add_argument(
        "--suffix", default="", metavar="NAME", help="tells the comments of several jobs apart"
    )
    comment.add_argument(
        "--runs-per-month", type=_from_one, metavar="N", help="of scenarios of which nobody said it"
    )
    comment.add_argument("--author", metavar="LOGIN", help="whose token it is, if not the workflow's own")


def _format(command: argparse.ArgumentParser, *names: str) -> None:
    command.add_argument("--format", choices=names, default=names[0], help=f"by default: {names[0]}")


def _output(command: argparse.ArgumentParser) -> None:
    command.add_argument("-o", "--output", type=Path, metavar="FILE", help="by default: standard output")


def _from_one(text: str) -> int:
    """Read a whole number from 1 on. Raises ArgumentTypeError with what else was given."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1 on")
    return int(text)


def _add_git(add: Add) -> None:
    diff = add("diff", _diff, "Compare the baselines with those where HEAD left BASE, the default branch.")
    diff.add_argument("base", nargs="?", metavar="BASE")
    diff.add_argument("--report", type=Path, metavar="JSON", help="a document of now")
    diff.add_argument("--base-report", type=Path, metavar="JSON", help="of BASE: what failed there already?")
    _format(diff, "terminal", "markdown", "json")
    _output(diff)
    prune = add("prune", _prune, "List baselines and cassettes that belong to no test.", for_pytest=True)
    prune.add_argument(
        "--delete", action="store_true", help="delete them, where the whole suite is collected"
    )
    history = add("history", _history, "Show how the baselines changed, commit by commit.")
    _format(history, "terminal", "json", "html")
    history.add_argument("--log", type=Path, metavar="FILE", help="of the runs in a log, not of baselines")
    history.add_argument("--commits", type=_from_one, default=100, metavar="N", help="the newest N (100)")
    _output(history)
    blame = add("blame", _blame, "Replay every commit of a range: which one moved what?", for_pytest=True)
    blame.add_argument("range", metavar="BASE..HEAD")
    _format(blame, "terminal", "json")
    blame.add_argument("--documents", type=Path, metavar="FOLDER", help="keep each commit's JSON document")


def _update(given: argparse.Namespace, rest: list[str]) -> int:
    from pytest_tokenbudget.commands import suite

    kind = "update-all" if given.all else "migrate" if given.migrate else "update"
    return suite.update_baselines(Path.cwd(), rest, kind)


def _record(given: argparse.Namespace, rest: list[str]) -> int:
    from pytest_tokenbudget.commands import suite

    mode = "all" if given.all else "changed"
    return suite.record(Path.cwd(), rest, mode, yes=given.yes, limit=given.max_spend)


def _advise(given: argparse.Namespace, rest: list[str]) -> int:
    from pytest_tokenbudget.commands import suite

    return suite.write_advice(Path.cwd(), rest, given.format, given.log)


def _demo(given: argparse.Namespace, _rest: list[str]) -> int:
    from pytest_tokenbudget.commands import suite

    return suite.demo(given.folder)


def _show(given: argparse.Namespace, _rest: list[str]) -> int:
    from pytest_tokenbudget.commands import committed

    return committed.write_baselines(Path.cwd(), given.paths, given.format)


def _report(given: argparse.Namespace, _rest: list[str]) -> int:
    from pytest_tokenbudget.commands import documents

    return documents.write_report(Path.cwd(), given.documents, given.format, given.diff, given.output)


def _merge(given: argparse.Namespace, _rest: list[str]) -> int:
    from pytest_tokenbudget.commands import documents

    return documents.write_merged(given.documents, given.output, given.expect)


def _check(given: argparse.Namespace, _rest: list[str]) -> int:
    from pytest_tokenbudget.commands import documents

    here, base, partial = Path.cwd(), given.base, given.partial
    return documents.write_check(here, given.documents, base, given.output, partial=partial)


def _comment(given: argparse.Namespace, _rest: list[str]) -> int:
    from pytest_tokenbudget.commands import comment

    return comment.run(
        given.documents,
        os.environ,
        diff=given.diff,
        suffix=given.suffix,
        author=given.author or comment.AUTHOR,
        runs_per_month=given.runs_per_month,
    )


def _diff(given: argparse.Namespace, _rest: list[str]) -> int:
    from pytest_tokenbudget.commands import committed

    return committed.write_diff(
        Path.cwd(),
        given.base,
        report=given.report,
        base_report=given.base_report,
        form=given.format,
        destination=given.output,
    )


def _prune(given: argparse.Namespace, rest: list[str]) -> int:
    from pytest_tokenbudget.commands import committed

    return committed.prune(Path.cwd(), rest, delete=given.delete)


def _history(given: argparse.Namespace, _rest: list[str]) -> int:
    from pytest_tokenbudget.commands import committed

    if given.log is not None and given.format != "html":
        return committed.write_logged(given.log, given.format, given.output)
    return committed.write_history(Path.cwd(), given.format, given.commits, given.output)


def _blame(given: argparse.Namespace, rest: list[str]) -> int:
    from pytest_tokenbudget.commands import blame

    return blame.run(Path.cwd(), given.range, rest, form=given.format, documents=given.documents)
