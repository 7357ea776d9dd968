"""The house rules about who may import whom, held by reading every import: lazy and transitive ones too.

A rule that is broken names each offender, with the chain of imports that leads to what it may not reach.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Collection, Iterator
from enum import IntEnum
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[1]
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for package in ("hpt", "hptctl")
    for path in sorted((ROOT / package).rglob("*.py"))
}
APP_ONLY = ("hptctl", "typer", "mlflow", "optuna", "jinja2", "pandas", "rich", "matplotlib")
HEAVY = (
    "torch",
    "torchvision",
    "timm",
    "onnx",
    "mlflow",
    "optuna",
    "pandas",
    "accelerate",
    "sklearn",
    "matplotlib",
    "scipy",
    "rich",
)
ONE_HOME = {
    "mlflow": "hptctl.tracking",
    "optuna": "hptctl.sweep",
    "rich": "hptctl.console",
    "jinja2": "hptctl.report.page",
    "pandas": "hptctl.report",
    "matplotlib": "hptctl.charts",
    "accelerate": "hpt.processes",
    "submitit": "hptctl.cluster",
    "timm": "hpt.architectures",
    "huggingface_hub": "hpt.architectures.hub",
}
ALONE = ("hptctl.tracking.embedder",)
"""What runs without this program: MLflow keeps the file with a model."""
STAIRS = (
    ("hptctl.__main__", "hptctl.worker"),
    ("hptctl.cli",),
    ("hptctl.commands",),
    ("hptctl.report", "hptctl.study", "hptctl.advice"),
    ("hptctl.sweep",),
    ("hptctl.cluster",),
    ("hptctl.runs.launch",),
    ("hptctl.runs.worker",),
    ("hptctl.tracking", "hptctl.compare"),
    ("hptctl.runs", "hptctl.charts"),
    ("hptctl.options",),
    ("hptctl.console",),
    ("hptctl.format",),
    ("hptctl",),
    ("hpt",),
)
"""A module imports what lies on lower steps, and of its own step only its own room."""


class When(IntEnum):
    """When an import happens: as its module is loaded, as a function is called, or never, for the type check alone."""

    LOADED = 0
    CALLED = 1
    TYPED = 2


def inside(module: str, *rooms: str) -> bool:
    return any(module == room or module.startswith(f"{room}.") for room in rooms)


def within(*rooms: str) -> list[str]:
    return [module for module in MODULES if inside(module, *rooms)]


@cache
def tree(module: str) -> ast.Module:
    return ast.parse(MODULES[module].read_text(encoding="utf-8"))


@cache
def imports(module: str) -> dict[str, When]:
    """What a module names in its imports, and the earliest time that it does; a submodule goes by its own name."""
    found: dict[str, When] = {}
    for node, when in _nodes(tree(module), When.LOADED):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.module and not node.level, f"{module} has a relative import"
            whole = [f"{node.module}.{alias.name}" for alias in node.names]
            names = [name if name in MODULES else node.module for name in whole]
        for name in names:
            found[name] = min(when, found.get(name, when))
    return found


def _nodes(node: ast.AST, when: When) -> Iterator[tuple[ast.AST, When]]:
    for child in ast.iter_child_nodes(node):
        yield child, when
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            yield from ((each, When.TYPED) for part in child.body for each in ast.walk(part))
            yield from (pair for part in child.orelse for pair in [(part, when), *_nodes(part, when)])
        else:
            lazy = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            yield from _nodes(child, max(when, When.CALLED) if lazy else when)


def breaches(modules: Collection[str], forbidden: Collection[str], until: When = When.TYPED) -> list[str]:
    """The imports in `modules` of what is `forbidden`."""
    return [
        f"{module} -> {name}"
        for module in modules
        for name, when in imports(module).items()
        if when <= until and inside(name, *forbidden)
    ]


def chains(start: str, forbidden: Collection[str], until: When = When.CALLED) -> list[str]:
    """How a module reaches what is `forbidden`, directly or over others: the shortest chain to each."""
    before: dict[str, str | None] = {start: None}
    waiting, found = [start], []
    while waiting:
        module = waiting.pop(0)
        for name in _loads(module, until):
            if name not in before:
                before[name] = module
                if inside(name, *forbidden):
                    found.append(_chain(before, name))
                elif name in MODULES:
                    waiting.append(name)
    return found


def _loads(module: str, until: When) -> list[str]:
    """What importing a module, or calling what is in it, imports; of `a.b.c` also `a` and `a.b`."""
    named = [module, *(name for name, when in imports(module).items() if when <= until)]
    parts = (name.split(".") for name in named)
    return [".".join(each[: i + 1]) for each in parts for i in range(len(each)) if each[: i + 1] != module.split(".")]


def _chain(before: dict[str, str | None], name: str) -> str:
    chain, at = [name], before[name]
    while at is not None:
        chain.append(at)
        at = before[at]
    return " -> ".join(reversed(chain))


def refuse(offenders: Collection[str]) -> None:
    """Fail with every offender on a line of its own."""
    assert not offenders, "\n" + "\n".join(sorted(offenders))


def step(module: str) -> tuple[int, str]:
    """Where a module stands on the stairs, and its room there: of several names that fit, the longest."""
    return max(
        ((number, room) for number, rooms in enumerate(STAIRS) for room in rooms if inside(module, room)),
        key=lambda each: len(each[1]),
    )


def test_the_library_knows_nothing_of_the_app() -> None:
    refuse(breaches(within("hpt"), APP_ONLY))


def test_data_knows_nothing_of_what_is_done_with_it() -> None:
    done_with_it = ("hpt.moco", "hpt.pretrain", "hpt.evaluate", "hpt.augment")
    data = within("hpt.data")
    refuse(breaches(data, done_with_it))
    refuse([chain for module in data for chain in chains(module, done_with_it)])


def test_the_report_never_reaches_torch() -> None:
    training = ("torch", "torchvision", "accelerate", "hpt.pretrain", "hpt.evaluate", "hpt.moco")
    rooms = within("hptctl.report", "hptctl.compare", "hptctl.charts", "hptctl.format", "hptctl.console")
    refuse(breaches(rooms, training))
    refuse([chain for module in rooms for chain in chains(module, training)])


def test_only_commands_import_the_report() -> None:
    others = set(MODULES) - set(within("hptctl.commands", "hptctl.report"))
    refuse(breaches(others, ("hptctl.report",)))


def test_imports_go_down_the_stairs() -> None:
    up = []
    for module in MODULES:
        at, room = step(module)
        for name in imports(module):
            if inside(name, "hpt", "hptctl"):
                to, other = step(name)
                if to < at or (to == at and other != room):
                    up.append(f"{module} -> {name}")
    refuse(up)


def test_no_imports_go_in_a_circle() -> None:
    circles: list[str] = []
    done: set[str] = set()

    def visit(module: str, path: tuple[str, ...]) -> None:
        if module in path:
            circles.append(" -> ".join((*path[path.index(module) :], module)))
        elif module not in done:
            for name, when in imports(module).items():
                if when <= When.CALLED and name in MODULES and name != module:
                    visit(name, (*path, module))
            done.add(module)

    for module in MODULES:
        visit(module, ())
    refuse(circles)


def test_a_third_party_has_one_home() -> None:
    strangers = []
    for library, home in ONE_HOME.items():
        assert breaches(within(home), (library,)), f"{home} is no home of {library}"
        others = [module for module in MODULES if not inside(module, home) and module not in ALONE]
        strangers += breaches(others, (library,))
    refuse(strangers)


def test_a_command_imports_nothing_heavy_before_it_is_called() -> None:
    commands = within("hptctl.commands", "hptctl.cli", "hptctl.options")
    refuse([chain for module in commands for chain in chains(module, HEAVY, When.LOADED)])
    light = ("hptctl.commands", "hptctl.options", "hptctl.format")
    ours = [
        f"{module} -> {name}"
        for module in commands
        for name, when in imports(module).items()
        if when == When.LOADED and inside(name, "hpt", "hptctl") and name != "hptctl" and not inside(name, *light)
    ]
    refuse(ours)
    foreign = [name for name in imports("hptctl.format") if name.partition(".")[0] not in sys.stdlib_module_names]
    assert foreign == [], "how figures are written is loaded with every command"


def test_who_sends_jobs_loads_no_torch() -> None:
    sending = [*within("hptctl.cluster"), "hptctl.sweep.folder"]
    sending += [f"hptctl.study.{module}" for module in ("on_cluster", "look", "progress", "import_runs")]
    refuse([chain for module in sending for chain in chains(module, ("torch", "torchvision"), When.LOADED)])


def test_only_the_console_prints() -> None:
    printing = []
    for module in set(MODULES) - {"hptctl.console", "hptctl.cli"}:
        calls = [node.func for node in ast.walk(tree(module)) if isinstance(node, ast.Call)]
        names = {call.id for call in calls if isinstance(call, ast.Name)}
        names |= {call.attr for call in calls if isinstance(call, ast.Attribute) and call.attr == "echo"}
        printing += [f"{module}: {name}" for name in names & {"print", "echo"}]
    refuse(printing)


def test_there_is_no_drawer_for_odds_and_ends() -> None:
    drawers = {"utils", "common", "base", "helpers"}
    refuse([module for module in MODULES if module.rpartition(".")[2] in drawers])
