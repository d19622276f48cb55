"""The docs quote messages as the code says them, and their links lead somewhere."""

from __future__ import annotations

import ast
import ensurepip
import re
import shlex
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from pytest_tokenbudget.errors import TokenBudgetError

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
FENCED = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)


def messages(code: str) -> Iterator[str]:
    """Every text of a module; what is filled in is `…`."""
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.JoinedStr):
            yield "".join(part.value if isinstance(part, ast.Constant) else "…" for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


def quoted(page: Path) -> list[str]:
    return re.findall(r"^#+ `(.+)`$", page.read_text("utf-8"), re.MULTILINE)


def anchors(page: Path) -> set[str]:
    """Return the anchors that GitHub gives the headings of a page."""
    headings = re.findall(r"^#+ (.+)$", FENCED.sub("", page.read_text("utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_troubleshooting_quotes_what_the_code_says() -> None:
    modules = (ROOT / "pytest_tokenbudget").rglob("*.py")
    said = [text for module in modules for text in messages(module.read_text("utf-8"))]
    headings = quoted(ROOT / "docs" / "troubleshooting.md")
    assert len(headings) >= 25
    assert [heading for heading in headings if not any(heading in text for text in said)] == []


def test_every_error_names_a_heading_of_the_docs() -> None:
    kinds = TokenBudgetError.__subclasses__()
    assert len(kinds) >= 7
    for kind in kinds:
        name, _, anchor = kind.docs.partition("#")
        assert not anchor or anchor in anchors(ROOT / "docs" / name), kind
        assert kind("It is wrong.").more == f"More: docs/{kind.docs}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    text = FENCED.sub("", page.read_text("utf-8"))
    links = [link for link in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in link]
    dead = []
    for link in links:
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            dead.append(link)
    assert dead == []


def test_modules_that_are_named_exist() -> None:
    """A name without a folder may be that of any of our files."""
    ours = ("pytest_tokenbudget", "tests", "benchmarks", "example_project", "scripts")
    held = [
        f"/{path.relative_to(ROOT).as_posix()}" for folder in ours for path in (ROOT / folder).rglob("*.py")
    ]
    pages = (FENCED.sub("", page.read_text("utf-8")) for page in PAGES)
    named = {name for page in pages for name in re.findall(r"`([\w/]+\.py)`", page)}
    assert [name for name in named if not any(path.endswith(f"/{name}") for path in held)] == []


PIP = re.compile(r"pip install ((?:-U )?(?:\"[^\"]+\"|[\w.-]*\w))")


def write_wheel(name: str, extras: Iterable[str], folder: Path) -> None:
    """An empty wheel, newer than all others."""
    stem = f"{name.replace('-', '_')}-9999"
    provided = "".join(f"Provides-Extra: {extra}\n" for extra in extras)
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: 9999\n{provided}"
    with zipfile.ZipFile(folder / f"{stem}-py3-none-any.whl", "w") as wheel:
        wheel.writestr(f"{stem}.dist-info/METADATA", metadata)
        wheel.writestr(f"{stem}.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        wheel.writestr(f"{stem}.dist-info/RECORD", "")


def test_what_messages_install_is_of_the_project_and_pip_takes_it(tmp_path: Path) -> None:
    """All commands at once, held against wheels in a folder: pip starts slowly."""
    modules = (ROOT / "pytest_tokenbudget").rglob("*.py")
    commands = sorted({found for each in modules for found in PIP.findall(each.read_text("utf-8"))})
    named = [part for command in commands for part in shlex.split(command)]
    requirements = [Requirement(part) for part in named if part != "-U"]
    assert len(requirements) >= 4
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    extras = {"pytest-tokenbudget": set(project["optional-dependencies"])}
    declared = {each.name: each.specifier for each in map(Requirement, project["dependencies"])}
    for each in requirements:
        assert each.extras <= extras.get(each.name, set())
        assert each.name in extras or each.specifier in (declared[each.name], "")
        write_wheel(each.name, extras.get(each.name, ()), tmp_path)
    bundled = sorted(Path(ensurepip.__file__).parent.glob("_bundled/pip-*.whl"))
    if not bundled:
        pytest.skip("this Python brings no pip")
    dry = ["--isolated", "--dry-run", "--no-index", "--no-deps", f"--find-links={tmp_path}"]
    command = [sys.executable, f"{bundled[-1]}/pip", "install", *dry, f"--target={tmp_path}", *named]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert {f"{each.name}-9999" for each in requirements} <= set(done.stdout.replace("_", "-").split())
    assert "WARNING" not in done.stderr, "an extra that is not there is a warning"
