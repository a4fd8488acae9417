"""The package's shape: imports point down, low floors stay light, names are documented."""

import ast
import importlib
import inspect
import pkgutil
import re
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import liquidations


PACKAGE = Path(liquidations.__file__).parent

#: Module or package → its floor (ARCHITECTURE.md). Imports point down, or stay on their floor.
FLOORS = {
    "errors": 0,
    "event": 0,
    "pairs": 0,
    "windows": 0,
    "exchanges": 1,
    "archives": 1,
    "candles": 1,
    "imbalance": 1,
    "segments": 1,
    "series": 1,
    "settings": 1,
    "levels": 1,
    "positioning": 1,
    "sampling": 1,
    "signals": 1,
    "significance": 1,
    "thresholds": 1,
    "simulate": 1,
    "study": 1,
    "plausibility": 1,
    "timing": 1,
    "http": 3,
    "planner": 3,
    "downloader": 3,
    "recording": 3,
    "check": 4,
    "freqtrade_data": 4,
    "database": 2,
    "client": 3,
    "collector": 3,
    "feed": 3,
    "fill": 3,
    "silence": 1,
    "view": 4,
    "rows": 2,
    "reader": 2,
    "writer": 2,
    "store": 2,
    "compaction": 2,
    "migrations": 2,
    "copying": 3,
    "integrity": 3,
    "tables": 2,
    "importer": 3,
    "markets": 3,
    "sandbox": 3,
    "sandbox_server": 3,
    "sandbox_stream": 3,
    "chart": 4,
    "page": 4,
    "frame": 4,
    "context": 4,
    "inventory": 4,
    "live": 4,
    "monitor": 4,
    "provider": 4,
    "strategy": 4,
    "study_report": 4,
    "__main__": 5,
    "cli": 5,
    "commands": 5,
}

#: What the two lowest floors must not load, so that they can be used in a notebook.
HEAVY = ("freqtrade", "ccxt", "sqlalchemy")


def modules() -> Iterator[str]:
    """List the package's modules below ``liquidations.``, as ``archives.okx``."""
    for found in pkgutil.walk_packages([str(PACKAGE)], "liquidations."):
        yield found.name.removeprefix("liquidations.")


def floor(module: str) -> int:
    return FLOORS[module.split(".")[0]]


def tree_of(module: str) -> ast.Module:
    path = PACKAGE / module.replace(".", "/")
    path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def for_types_only(tree: ast.Module) -> set[ast.AST]:
    """Collect what stands below ``if TYPE_CHECKING:``, which never runs."""
    return {
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for branch in node.body
        for inner in ast.walk(branch)
    }


def imports(module: str, *, types: bool) -> set[str]:
    """List the full names of the modules that a module imports, at its top or within functions."""
    tree = tree_of(module)
    skipped = set() if types else for_types_only(tree)
    found = set()
    for node in ast.walk(tree):
        if node in skipped:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: write imports in full, not relative"
            # ``from liquidations.commands import show`` imports a module, too.
            inside = {f"{node.module}.{alias.name}" for alias in node.names}
            known = {f"liquidations.{name}" for name in modules()}
            found |= (inside & known) or {node.module}
    return found


def own(names: set[str]) -> set[str]:
    return {
        name.removeprefix("liquidations.") for name in names if name.startswith("liquidations.")
    }


MODULES = sorted(modules())
LIGHT = [name for name in MODULES if FLOORS.get(name.split(".")[0], 9) <= 1]


def test_the_table_names_every_module_and_no_other():
    assert {name.split(".")[0] for name in MODULES} == set(FLOORS)


@pytest.mark.parametrize("module", MODULES)
def test_imports_point_down(module):
    for imported in own(imports(module, types=True)):
        assert floor(imported) <= floor(module), f"{module} imports {imported}"


def test_imports_run_in_no_circle():
    # Raises CycleError and names the circle.
    graph = {module: own(imports(module, types=False)) - {module} for module in MODULES}
    list(TopologicalSorter(graph).static_order())


@pytest.mark.parametrize("module", LIGHT)
def test_the_lower_floors_name_nothing_heavy(module):
    roots = {name.split(".")[0] for name in imports(module, types=True)}
    assert not roots & set(HEAVY)


def loaded_after(statement: str) -> set[str]:
    """Run a statement in a fresh interpreter and list the top-level modules that it loaded."""
    code = f"import sys; {statement}; print(*{{name.split('.')[0] for name in sys.modules}})"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    return set(done.stdout.split())


def test_the_lower_floors_load_nothing_heavy():
    statement = "import " + ", ".join(f"liquidations.{module}" for module in LIGHT)
    assert not loaded_after(statement) & set(HEAVY)


def test_the_door_loads_nothing_before_it_is_used():
    loaded = loaded_after("import liquidations; dir(liquidations)")
    assert not loaded & {*HEAVY, "pandas", "numpy", "pyarrow"}
    loaded = loaded_after("from liquidations import window_imbalance")
    assert "pandas" in loaded
    assert not loaded & set(HEAVY)


# --- names and texts ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", liquidations.__all__)
def test_public_names_resolve_and_are_documented(name):
    found = getattr(liquidations, name)
    assert inspect.isfunction(found) or inspect.isclass(found)
    assert found.__name__ == name
    assert inspect.getdoc(found)
    assert name in dir(liquidations)


def test_a_name_that_is_not_there_is_an_attribute_error():
    with pytest.raises(AttributeError, match="add_liquidation'"):
        liquidations.add_liquidation  # noqa: B018
    with pytest.raises(ImportError):
        importlib.import_module("liquidations.nothing")


def public(tree: ast.Module) -> Iterator[tuple[str, ast.AST]]:
    """List public functions, classes and methods; what is within a function is not public."""
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    for node in tree.body:
        if isinstance(node, kinds) and not node.name.startswith("_"):
            yield node.name, node
            if isinstance(node, ast.ClassDef):
                for inner in node.body:
                    if isinstance(inner, kinds) and not inner.name.startswith("_"):
                        yield f"{node.name}.{inner.name}", inner


@pytest.mark.parametrize("module", MODULES)
def test_every_public_name_has_a_docstring_that_begins_with_one_sentence(module):
    wrong = []
    for name, node in public(tree_of(module)):
        first = (ast.get_docstring(node) or "").split("\n")[0]
        # One sentence: it ends here, and no other begins before.
        if not first.endswith(".") or re.search(r"\. [A-Z]", first):
            wrong.append(f"{name}: {first!r}")
    assert not wrong


def test_every_module_says_what_it_is():
    assert not [module for module in MODULES if not ast.get_docstring(tree_of(module))]
