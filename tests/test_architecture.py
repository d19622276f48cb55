"""The house rules, walked from the code: deep modules, imports go down only, one library in one module."""

from __future__ import annotations

import ast
import functools
import re
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

import pytest_tokenbudget

PACKAGE = Path(pytest_tokenbudget.__file__).parent
ROOT = "pytest_tokenbudget"

# From the ground up. A room is a folder, or a module that stands on another floor than its folder. A module
# may import from its own room and from the floors below; rooms of one floor do not know each other.
FLOORS: list[set[str]] = [
    {"errors"},
    {"__init__", "model", "files", "wording", "sequences", "settings"},
    {"wire"},
    {"replay", "metering", "sources", "repository/git"},
    {"budget"},
    {"diagnosis", "repository/source_files"},
    {"advice"},
    {"reports"},
    {"repository/baseline_history"},
    {"run"},
    {"commands"},
    {"plugin", "cli"},
    {"__main__"},
]

# The one module that knows each foreign library. pytest is known by the modules that answer its hooks.
OWNERS = {
    "vcr": {"replay/vcr_bridge.py"},
    "yaml": {"files.py"},
    "ctok": {"metering/counting.py"},
    "genai_prices": {"metering/pricing.py"},
    "tabulate": {"reports/text.py"},
    "jinja2": {"reports/dashboard/__init__.py"},
    "time_machine": {"run/stability.py"},
    "pytest": {"plugin.py", "run/hooks.py", "run/items.py", "run/reporting.py"},
}
PURE = ("wire", "metering", "sources", "budget", "diagnosis", "advice", "reports")
IO = {"socket", "subprocess", "urllib.request", "http", "asyncio", "threading", "multiprocessing"}
_VERBS = """
    Accept Activate Add Answer Append Apply Ask Attach Begin Build Call Change Check Choose Clean Close
    Collect Combine Comment Compare Compute Convert Copy Count Create Cut Decide Decode Define Delete Divide
    Draw Drop Encode End Enter Escape Estimate Explain Express Fill Find Finish Fold Follow Forget Format
    Give Group Hash Hide Hold Import Include Join Judge Keep Lay Learn Leave Let List Load Locate Look Make
    Map Mark Match Measure Merge Meter Move Multiply Name Note Open Order Pair Parse Pass Patch Pick Prepare
    Price Print Put Quote Raise Read Rebuild Record Redact Reduce Refuse Register Release Remember Remove
    Render Repeat Replace Replay Report Resolve Restore Return Round Run Say Send Serve Set Share Show
    Simulate Skip Slide Sort Split Stand Start Stop Store Take Tell Track Turn Undo Update Wait Walk Warn
    Wrap Write Yield
"""
VERBS = frozenset(_VERBS.split())
"""How a docstring of a function may begin; a new verb is added here, another word is not."""
SHALLOW_LINES = 60
LONGEST_FUNCTION = 50


MODULES = [path.relative_to(PACKAGE).as_posix() for path in sorted(PACKAGE.rglob("*.py"))]


@functools.cache
def parsed(path: str) -> ast.Module:
    return ast.parse((PACKAGE / path).read_text(encoding="utf-8"))


@functools.cache
def nodes(path: str) -> tuple[ast.AST, ...]:
    """All of a module: to walk through it is most of what these tests cost."""
    return tuple(ast.walk(parsed(path)))


def imports(found: Iterable[ast.AST]) -> Iterator[str]:
    for node in found:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def lines(path: str) -> int:
    return len((PACKAGE / path).read_text(encoding="utf-8").splitlines())


def module_of(name: str) -> str:
    """`pytest_tokenbudget.wire.prompt.Block` -> `wire/prompt.py`."""
    parts = name.split(".")[1:]
    for length in range(len(parts), 0, -1):
        path = "/".join(parts[:length])
        for candidate in (f"{path}.py", f"{path}/__init__.py"):
            if candidate in MODULES:
                return candidate
    return "__init__.py"


def room(path: str) -> str:
    own = path.removesuffix(".py")
    return own if any(own in floor for floor in FLOORS) else own.split("/")[0]


def height(path: str) -> int:
    return next(number for number, rooms in enumerate(FLOORS) if room(path) in rooms)


@functools.cache
def own_imports(path: str) -> frozenset[str]:
    """The modules of the package that a module imports, early or late."""
    return frozenset(module_of(name) for name in imports(nodes(path)) if name.split(".")[0] == ROOT) - {path}


@functools.cache
def importers(path: str) -> frozenset[str]:
    """The modules of the package that import a module."""
    return frozenset(importer for importer in MODULES if path in own_imports(importer))


@pytest.mark.parametrize("path", MODULES)
def test_imports_go_down_only(path: str) -> None:
    for other in own_imports(path):
        assert height(other) <= height(path), f"{path} imports {other} from above"
        if height(other) == height(path) > 1:
            assert room(other) == room(path), f"{path} imports its neighbour {other}"


def test_no_module_imports_itself_through_others() -> None:
    done: set[str] = set()

    def visit(path: str, above: tuple[str, ...]) -> None:
        assert path not in above, f"a circle of imports: {' -> '.join((*above, path))}"
        if path not in done:
            for other in sorted(own_imports(path)):
                visit(other, (*above, path))
            done.add(path)

    for path in MODULES:
        visit(path, ())


def test_no_module_name_is_used_twice() -> None:
    names = Counter(Path(path).stem for path in MODULES if not path.endswith("__init__.py"))
    assert not {name for name, times in names.items() if times > 1}


@pytest.mark.parametrize("path", [path for path in MODULES if not Path(path).name.startswith("__")])
def test_no_module_is_a_drawer_of_another(path: str) -> None:
    """What a single module needs, in few lines, belongs into that module."""
    assert len(importers(path)) != 1 or lines(path) >= SHALLOW_LINES, f"{path} belongs into {importers(path)}"


@pytest.mark.parametrize("path", MODULES)
def test_no_function_is_too_long(path: str) -> None:
    for node in nodes(path):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            assert length <= LONGEST_FUNCTION, f"{path}: {node.name} has {length} lines"


def test_one_foreign_library_in_one_module() -> None:
    known: dict[str, set[str]] = defaultdict(set)
    for path in MODULES:
        for name in imports(nodes(path)):
            top = name.split(".")[0]
            if top != ROOT and top not in sys.stdlib_module_names:
                known[top].add(path)
    assert set(known) <= set(OWNERS), "a library that no module owns"
    for library, paths in known.items():
        assert paths <= OWNERS[library], f"{library} is known by {paths - OWNERS[library]}"


@pytest.mark.parametrize("path", MODULES)
def test_names_are_imported_from_where_they_are_defined(path: str) -> None:
    """Else a module knows a library, or another module, through a third one."""
    for node in nodes(path):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == ROOT:
            source = module_of(node.module)
            for alias in node.names:
                if module_of(f"{node.module}.{alias.name}") == source:
                    assert alias.name in defined(source), f"{path}: {alias.name} is imported by {source} too"


def defined(path: str) -> set[str]:
    names: set[str] = set()
    for node in parsed(path).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names |= {
                name.id for target in targets for name in ast.walk(target) if isinstance(name, ast.Name)
            }
    return names


def test_foreign_libraries_are_imported_late() -> None:
    """Except pytest in the plugin, and vcr in the module that is itself imported late."""
    for path in MODULES:
        if path in {*OWNERS["pytest"], *OWNERS["vcr"]}:
            continue
        top_level = ast.Module(
            [n for n in parsed(path).body if isinstance(n, ast.Import | ast.ImportFrom)], []
        )
        foreign = {n.split(".")[0] for n in imports(ast.walk(top_level))} - {ROOT} - sys.stdlib_module_names
        assert not foreign, f"{path} imports {foreign} when it is imported"


@pytest.mark.parametrize("path", [path for path in MODULES if path.startswith(PURE)])
def test_the_floors_in_the_middle_do_no_network_and_start_nothing(path: str) -> None:
    used = {name for name in imports(nodes(path)) for io in IO if name == io or name.startswith(f"{io}.")}
    assert not used - {"threading.Lock"}, f"{path} uses {used}"


def test_nothing_private_of_pytest_and_never_the_sdk() -> None:
    for path in MODULES:
        for name in imports(nodes(path)):
            assert not name.startswith("_pytest"), f"{path} imports {name}"
            assert not name.startswith("anthropic"), f"{path} imports {name}"


def test_the_plugin_module_is_light() -> None:
    """What every pytest run imports: the standard library, pytest, settings and errors."""
    late = {"run/hooks.py", "replay/proxy.py", "replay/credentials.py"}
    assert own_imports("plugin.py") <= {"errors.py", "settings.py", *late}
    top = {
        name
        for node in parsed("plugin.py").body
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in imports(ast.walk(node))
    }
    assert not any(name.startswith((f"{ROOT}.run", f"{ROOT}.replay")) for name in top)
    assert own_imports("settings.py") <= {"errors.py"}


@pytest.mark.parametrize("path", MODULES)
def test_every_module_says_what_it_is_for(path: str) -> None:
    assert ast.get_docstring(parsed(path)), f"{path} has no docstring"


@pytest.mark.parametrize("path", [path for path in MODULES if path != "metering/models.py"])
def test_what_is_known_of_a_model_stands_in_the_table_of_models(path: str) -> None:
    """No other module tells one model from another by its name; docstrings and comments may."""
    statements = (node.value for node in nodes(path) if isinstance(node, ast.Expr))
    told = {id(value) for value in statements if isinstance(value, ast.Constant)}
    names = [
        node.value
        for node in nodes(path)
        if isinstance(node, ast.Constant)
        and isinstance(node.value, str)
        and id(node) not in told
        and re.search("haiku|sonnet|opus|fable|mythos", node.value)
    ]
    assert not names, f"{path} names models: {names}"


def test_docstrings_of_functions_begin_with_a_verb() -> None:
    """A property is named for what it is, and so is its docstring."""
    begun = {
        f"{path}: {function.name}": docstring.split()[0].strip(".,:;`")
        for path in MODULES
        for function in nodes(path)
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef)
        and (docstring := ast.get_docstring(function))
        and not any("property" in ast.unparse(decorator) for decorator in function.decorator_list)
    }
    assert len(begun) > 1_000
    assert {place: word for place, word in begun.items() if word not in VERBS} == {}
