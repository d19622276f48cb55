"""Make the pictures of the docs from the example: a red terminal, the comment of a pull request, the page.

Usage: scripts/screenshots.py [FOLDER], by a Python that has the tests' requirements installed; needs git and
Chromium. Writes docs/images, or FOLDER. Nothing is drawn by hand: the example's prompt is changed as a pull
request would change it, and what the tool says of it is taken as it stands.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from html import escape
from pathlib import Path
from tempfile import TemporaryDirectory

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

import cmarkgfm  # noqa: E402
from cmarkgfm.cmark import Options  # noqa: E402

from pytest_tokenbudget.reports.baseline_report import Accepting, load_diff  # noqa: E402
from pytest_tokenbudget.reports.document import load  # noqa: E402
from pytest_tokenbudget.reports.markdown import Links, markdown  # noqa: E402
from support.browser import Browser, browser  # noqa: E402

COLUMNS = 100
HEIGHTS = {1280: 800, 390: 844}
"""Of what is shown, by the width of a screen."""
GITHUB = "https://github.com/shop/support"
LINKS = Links(
    f"{GITHUB}/blob/HEAD", f"{GITHUB}/commit/HEAD", f"{GITHUB}/actions/runs/1", f"{GITHUB}/commit/BASE"
)
COMMENT = """<!doctype html><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<style>
:root { color-scheme: light dark; --text: #1f2328; --line: #d1d9e0; --code: #818b981f; --link: #0969da;
  --page: #fff; }
@media (prefers-color-scheme: dark) {
  :root { --text: #f0f6fc; --line: #3d444d; --code: #656c7633; --link: #4493f8; --page: #0d1117; }
}
body { margin: 16px auto; padding: 0 16px; max-width: 860px; background: var(--page); color: var(--text);
  font: 14px/1.5 -apple-system, "Segoe UI", "Noto Sans", Helvetica, Arial, sans-serif;
  overflow-wrap: anywhere; }
main { border: 1px solid var(--line); border-radius: 6px; padding: 16px; }
h3 { font-size: 1.25em; margin: 0 0 16px; line-height: 1.25; }
p, ul, table, pre, details { margin: 0 0 16px; }
ul { padding-left: 2em; }
li ul { margin: 0; }
a { color: var(--link); }
code { font: 85%/1.45 ui-monospace, "Liberation Mono", monospace; background: var(--code); padding: .2em .4em;
  border-radius: 6px; }
pre { background: var(--code); border-radius: 6px; padding: 16px; overflow: auto; overflow-wrap: normal; }
pre code { background: none; padding: 0; font-size: 100%; }
table { display: block; width: max-content; max-width: 100%; overflow: auto; border-collapse: collapse;
  overflow-wrap: normal; }
th, td { border: 1px solid var(--line); padding: 6px 13px; }
</style><main>"""
"""A page around a comment, in about the style of GitHub."""
PALETTE = {"31": "#ff7b72", "32": "#7ee787", "33": "#e3b341", "36": "#79c0ff"}
ESCAPE = re.compile(r"\x1b\[([\d;]*)m")
DURATION = re.compile(r" in [\d.]+s(?: \([\d:]+\))?")
"""How long a run took, which is of the machine alone."""
EM, LINE = 7.83, 18
SVG = """<svg xmlns="http://www.w3.org/2000/svg"
  width="{width}" height="{height}" viewBox="0 0 {width} {height}">
<rect width="{width}" height="{height}" rx="8" fill="#0d1117"/>
<g fill="#e6edf3" font-family="{family}" font-size="13" xml:space="preserve">
{rows}
</g></svg>
"""
FAMILY = "ui-monospace, SFMono-Regular, Menlo, Consolas, Liberation Mono, monospace"


def main(folder: Path) -> None:
    """Make all pictures in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory() as scratch:
        project = Path(scratch, "support")
        shutil.copytree(ROOT / "example_project", project, ignore=shutil.ignore_patterns("__pycache__"))
        grow_history(project)
        prompt = project / "support_agent/prompts/support.md"
        append(prompt, (ROOT / "scripts/demo-prompt-change.md").read_text("utf-8"))
        said = DURATION.sub("", run(project, "pytest", "-q", "--color=yes", "--token-budget", fails=True))
        (folder / "terminal.svg").write_text(terminal(f"$ pytest -q --token-budget\n{said}"), "utf-8")
        reports = ("--token-budget-report=json:run.json", "--token-budget-report=html:run.html")
        run(project, "pytest", "-q", "--token-budget", *reports, fails=True)
        comment(project, "red")
        commit(project, "Worked answers, so that it sounds more like us")
        run(project, "pytest", "-q", "--token-budget", "--token-budget-update")
        commit(project, "Accept what the worked answers cost")
        run(project, "pytest", "-q", "--token-budget", reports[0])
        run(project, "pytest_tokenbudget", "diff", "HEAD~2", "--format", "json", "-o", "diff.json")
        comment(project, "accepted")
        with browser(Path(scratch, "profile")) as chromium:
            for name, page in (
                ("comment", project / "red.html"),
                ("comment-accepted", project / "accepted.html"),
                ("dashboard", project / "run.html"),
            ):
                for width in HEIGHTS:
                    for dark in (False, True):
                        shade = "-dark" if dark else ""
                        picture = shot(chromium, page, width, dark=dark)
                        (folder / f"{name}-{width}{shade}.png").write_bytes(picture)


def grow_history(project: Path) -> None:
    """Commit the example as it is, and a prompt that grew and was accepted, so that there is a trend."""
    git(project, "init", "-qb", "main", ".")
    commit(project, "A support agent, and what it costs")
    prompt = project / "support_agent/prompts/triage.md"
    append(prompt, "\nAn order number has eight digits; ask for it where it is missing.\n")
    run(project, "pytest_tokenbudget", "update", "--all")
    commit(project, "Ask for the order number (#12)")


def append(file: Path, text: str) -> None:
    """Add text to the end of a file."""
    file.write_text(file.read_text("utf-8") + text, "utf-8")


def commit(project: Path, subject: str) -> None:
    """Commit agent and tests as they are, with the files that are new."""
    git(project, "add", "pyproject.toml", "support_agent", "tests")
    git(project, "commit", "-qm", subject)


def git(project: Path, *arguments: str) -> None:
    """Run git in the scratch project."""
    who = ["-c", "user.name=demo", "-c", "user.email=demo@example.com"]
    subprocess.run(["git", *who, *arguments], cwd=project, check=True, stdout=subprocess.DEVNULL)


def run(project: Path, module: str, *arguments: str, fails: bool = False) -> str:
    """Return what a module prints; it has to fail where it `fails`."""
    environment = {
        name: value
        for name, value in os.environ.items()
        if name != "CI" and not name.startswith(("ANTHROPIC", "PYTEST"))
    }
    done = subprocess.run(
        [sys.executable, "-m", module, *arguments],
        cwd=project,
        env=environment | {"COLUMNS": str(COLUMNS), "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    if (done.returncode != 0) != fails:
        raise SystemExit(f"{module} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
    return done.stdout


def comment(project: Path, name: str) -> None:
    """Write the comment on the last run as GitHub's own parser makes HTML of it."""
    diff = project / "diff.json"
    accepting = Accepting(load_diff(diff)) if diff.is_file() else None
    text = markdown(load(project / "run.json"), links=LINKS, accepting=accepting)
    html = cmarkgfm.github_flavored_markdown_to_html(text, options=Options.CMARK_OPT_UNSAFE)
    (project / f"{name}.html").write_text(f"{COMMENT}{html}</main>", "utf-8")


def shot(chromium: Browser, page: Path, width: int, *, dark: bool) -> bytes:
    """Return the top of a page as PNG, no higher than the page."""
    with chromium.page(page.as_uri(), width=width, height=HEIGHTS[width], dark=dark) as tab:
        high = tab.evaluate("document.body.getBoundingClientRect().bottom + 16")
        wide = tab.evaluate("document.documentElement.scrollWidth")
        if wide > width:
            raise SystemExit(f"{page.name} is {wide} px wide on a screen of {width}")
        clip = {"x": 0, "y": 0, "width": width, "height": min(high, HEIGHTS[width]), "scale": 1}
        return tab.screenshot(clip)


def terminal(text: str) -> str:
    """Return coloured text of a terminal as SVG."""
    rows, attributes = [], ""
    for index, line in enumerate(text.rstrip().splitlines(), 1):
        spans = []
        for number, part in enumerate(ESCAPE.split(line)):
            if number % 2:
                attributes = _attributes(part.split(";"), attributes)
            elif part:
                spans.append(f"<tspan{attributes}>{escape(part)}</tspan>")
        rows.append(f'<text x="16" y="{index * LINE + 12}">{"".join(spans)}</text>')
    columns = max(
        len(ESCAPE.sub("", line)) for line in text.splitlines()
    )  # pytest passes the width in colour
    width, height = round(columns * EM + 32), len(rows) * LINE + 32
    return SVG.format(width=width, height=height, family=FAMILY, rows="\n".join(rows))


def _attributes(codes: Sequence[str], before: str) -> str:
    """Return the attributes of text after the codes of an escape; `before` are those in front of it."""
    if set(codes) <= {"", "0"}:
        return ""
    colour = next((PALETTE[code] for code in codes if code in PALETTE), None)
    attributes = {found[1]: found[2] for found in re.finditer(r' ([\w-]+)="([^"]*)"', before)}
    attributes |= {"fill": colour} if colour else {}
    attributes |= {"font-weight": "bold"} if "1" in codes else {}
    return "".join(f' {name}="{value}"' for name, value in attributes.items())


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "docs/images")
