"""The house rules about who may import whom, held by walking the imports."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for package in ("hpt", "hptctl")
    for path in sorted((ROOT / package).rglob("*.py"))
}
APP_ONLY = {"hptctl", "typer", "mlflow", "optuna", "jinja2", "pandas", "rich", "matplotlib"}
HEAVY = {"torch", "torchvision", "mlflow", "optuna", "pandas", "accelerate", "sklearn", "matplotlib", "scipy", "rich"}
ONE_HOME = {
    "mlflow": {m for m in MODULES if m.startswith("hptctl.tracking.")},
    "optuna": {m for m in MODULES if m.startswith("hptctl.sweep.")},
    "rich": {"hptctl.console"},
    "jinja2": {"hptctl.report.page"},
    "matplotlib": {"hptctl.charts.svg", "hptctl.charts.sweep"},
    "accelerate": {"hpt.processes"},
}


def imports(module: str, *, top_level: bool = False) -> Iterator[str]:
    """Names of imported modules; only those that importing the module itself loads, when `top_level`."""
    tree = ast.parse(MODULES[module].read_text(encoding="utf-8"))
    nodes: list[ast.AST] = list(ast.walk(tree))
    if top_level:
        nodes = [inner for node in tree.body if not _type_checking(node) for inner in _without_functions(node)]
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def _without_functions(node: ast.AST) -> Iterator[ast.AST]:
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return
    yield node
    for child in ast.iter_child_nodes(node):
        yield from _without_functions(child)


def packages(module: str, **options: bool) -> set[str]:
    return {name.partition(".")[0] for name in imports(module, **options)}


def inside(module: str, *folders: str) -> bool:
    return any(module == folder or module.startswith(f"{folder}.") for folder in folders)


@pytest.mark.parametrize("module", [m for m in MODULES if inside(m, "hpt")])
def test_the_library_knows_nothing_of_the_app(module: str) -> None:
    assert not packages(module) & APP_ONLY


@pytest.mark.parametrize("module", [m for m in MODULES if inside(m, "hpt.data")])
def test_data_knows_nothing_of_what_is_done_with_it(module: str) -> None:
    assert not [n for n in imports(module) if inside(n, "hpt.moco", "hpt.pretrain", "hpt.evaluate", "hpt.augment")]


@pytest.mark.parametrize("module", [m for m in MODULES if inside(m, "hptctl.report")])
def test_the_report_needs_no_torch(module: str) -> None:
    assert not packages(module) & {"torch", "torchvision", "accelerate"}
    assert not [name for name in imports(module) if inside(name, "hpt.pretrain", "hpt.evaluate", "hpt.moco")]


@pytest.mark.parametrize("library", ONE_HOME)
def test_a_third_party_has_one_home(library: str) -> None:
    assert {module for module in MODULES if library in packages(module)} <= ONE_HOME[library]


@pytest.mark.parametrize("module", [m for m in MODULES if inside(m, "hptctl.commands", "hptctl.cli", "hptctl.options")])
def test_a_command_imports_nothing_heavy_before_it_is_called(module: str) -> None:
    assert not packages(module, top_level=True) & HEAVY
    ours = [name for name in imports(module, top_level=True) if inside(name, "hpt", "hptctl")]
    assert all(inside(name, "hptctl", "hptctl.commands", "hptctl.options") for name in ours)


@pytest.mark.parametrize("module", MODULES)
def test_only_the_console_prints(module: str) -> None:
    if module in {"hptctl.console", "hptctl.cli"}:
        return
    tree = ast.parse(MODULES[module].read_text(encoding="utf-8"))
    calls = [node.func for node in ast.walk(tree) if isinstance(node, ast.Call)]
    assert not [c for c in calls if isinstance(c, ast.Name) and c.id == "print"]
    assert not [c for c in calls if isinstance(c, ast.Attribute) and c.attr == "echo"]


def test_there_is_no_drawer_for_odds_and_ends() -> None:
    assert not {"utils", "common", "base", "helpers"} & {module.rpartition(".")[2] for module in MODULES}


@pytest.mark.parametrize("package", ["hpt", "hptctl"])
def test_the_packages_import_each_other_in_no_circle(package: str) -> None:
    graph = {
        module: {name for name in imports(module, top_level=True) if name in MODULES and name != module}
        for module in MODULES
        if inside(module, package)
    }
    done: set[str] = set()

    def visit(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, " -> ".join((*path, module))
        if module not in done:
            for name in graph.get(module, ()):
                visit(name, (*path, module))
            done.add(module)

    for module in graph:
        visit(module, ())
