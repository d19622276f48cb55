"""The house rules, walked from the code: imports go down only, one foreign library in one module."""

from __future__ import annotations

import ast
import re
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

import pytest_tokenbudget

PACKAGE = Path(pytest_tokenbudget.__file__).parent
ROOT = "pytest_tokenbudget"

# Floors from the ground up. A module may import from its own floor and from those below, never from above;
# floors of one row are neighbours and do not know each other.
FLOORS: list[set[str]] = [
    {
        "__init__",
        "model",
        "numbers",
        "sequences",
        "errors",
        "tolerance",
        "config",
        "options",
        "files",
        "yaml_files",
    },
    {"wire"},
    {"replay", "metering", "repository", "github"},
    {"budget"},
    {"diagnosis", "source_files"},
    {"reports"},
    {"source_files", "baseline_files", "report_files", "count_api", "spending", "stability", "background"},
    {"committed", "scenario", "session", "stage"},
    {"hooks", "fixtures", "places", "telling", "summary", "commands"},
    {"plugin", "cli", "__main__"},
]
NEIGHBOURS = {"replay", "metering", "repository", "github"}

# Which module knows which foreign library. pytest is known by the hooks alone.
OWNERS = {
    "vcr": {"replay/cassette.py"},
    "yaml": {"yaml_files.py"},
    "ctok": {"metering/counting.py"},
    "genai_prices": {"metering/pricing.py"},
    "tabulate": {"reports/tables.py"},
    "jinja2": {"reports/dashboard.py"},
    "time_machine": {"stability.py"},
    "pytest": {"plugin.py", "hooks.py", "fixtures.py", "places.py", "telling.py", "summary.py"},
}
PURE = ("wire", "metering", "budget", "diagnosis", "reports")
IO = {"socket", "subprocess", "urllib.request", "http", "asyncio", "threading", "multiprocessing"}


def modules() -> Iterator[tuple[str, ast.Module]]:
    for path in sorted(PACKAGE.rglob("*.py")):
        yield path.relative_to(PACKAGE).as_posix(), ast.parse(path.read_text(encoding="utf-8"))


def imports(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def part(name: str) -> str:
    """`pytest_tokenbudget.wire.prompt.Block` -> `wire`; `pytest_tokenbudget.model.Tokens` -> `model`."""
    words = name.split(".")
    return (
        words[1]
        if len(words) > 1 and ((PACKAGE / words[1]).is_dir() or (PACKAGE / f"{words[1]}.py").exists())
        else "__init__"
    )


def floor(name: str) -> int:
    return next(height for height, floors in enumerate(FLOORS) if name in floors)


MODULES = dict(modules())


@pytest.mark.parametrize("path", MODULES)
def test_imports_go_down_only(path: str) -> None:
    own = path.split("/")[0].removesuffix(".py")
    for name in imports(MODULES[path]):
        if name.split(".")[0] != ROOT:
            continue
        other = part(name)
        assert floor(other) <= floor(own), f"{path} imports {name} from above"
        if own in NEIGHBOURS and other in NEIGHBOURS:
            assert own == other, f"{path} imports its neighbour {name}"


def test_one_foreign_library_in_one_module() -> None:
    known: dict[str, set[str]] = defaultdict(set)
    for path, tree in MODULES.items():
        for name in imports(tree):
            top = name.split(".")[0]
            if top != ROOT and top not in sys.stdlib_module_names:
                known[top].add(path)
    assert set(known) <= set(OWNERS), "a library that no module owns"
    for library, paths in known.items():
        assert paths <= OWNERS[library], f"{library} is known by {paths - OWNERS[library]}"


def test_foreign_libraries_are_imported_late() -> None:
    """Except pytest in the plugin, and vcr in the module that is itself imported late."""
    for path, tree in MODULES.items():
        if path in {*OWNERS["pytest"], *OWNERS["vcr"]}:
            continue
        top_level = ast.Module([n for n in tree.body if isinstance(n, ast.Import | ast.ImportFrom)], [])
        foreign = {n.split(".")[0] for n in imports(top_level)} - {ROOT} - sys.stdlib_module_names
        assert not foreign, f"{path} imports {foreign} when it is imported"


@pytest.mark.parametrize("path", [path for path in MODULES if path.startswith(PURE)])
def test_the_floors_in_the_middle_do_no_network_and_start_nothing(path: str) -> None:
    used = {name for name in imports(MODULES[path]) for io in IO if name == io or name.startswith(f"{io}.")}
    assert not used - {"threading.Lock"}, f"{path} uses {used}"


def test_nothing_private_of_pytest_and_never_the_sdk() -> None:
    for path, tree in MODULES.items():
        for name in imports(tree):
            assert not name.startswith("_pytest"), f"{path} imports {name}"
            assert not name.startswith("anthropic"), f"{path} imports {name}"


def test_the_plugin_module_is_light() -> None:
    """What every pytest run imports: the standard library, pytest, options and errors."""
    names = {name for name in imports(MODULES["plugin.py"]) if name.startswith(ROOT)}
    assert {part(name) for name in names} <= {"errors", "options", "hooks", "__init__"}
    top = {
        n
        for node in MODULES["plugin.py"].body
        if isinstance(node, ast.Import | ast.ImportFrom)
        for n in imports(node)
    }
    assert not any(name.startswith(f"{ROOT}.hooks") for name in top)


@pytest.mark.parametrize("path", MODULES)
def test_every_module_says_what_it_is_for(path: str) -> None:
    assert ast.get_docstring(MODULES[path]), f"{path} has no docstring"


@pytest.mark.parametrize("path", [path for path in MODULES if path != "metering/models.py"])
def test_what_is_known_of_a_model_stands_in_the_table_of_models(path: str) -> None:
    """No other module tells one model from another by its name; docstrings and comments may."""
    tree = MODULES[path]
    statements = (node.value for node in ast.walk(tree) if isinstance(node, ast.Expr))
    told = {id(value) for value in statements if isinstance(value, ast.Constant)}
    names = [
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant)
        and isinstance(node.value, str)
        and id(node) not in told
        and re.search("haiku|sonnet|opus|fable|mythos", node.value)
    ]
    assert not names, f"{path} names models: {names}"
