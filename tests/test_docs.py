"""What the README promises."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from hpt.config import EvaluateConfig, PretrainConfig, fields
from hpt.data.catalog import CATALOG
from hptctl.cli import tree

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"^\s*(?:uv run )?hptctl ([^#\n|]+)", README, flags=re.MULTILINE)


def test_a_command_of_the_readme_exists_with_its_options() -> None:
    for line in COMMANDS:
        command = tree()
        words = line.split()
        while words and hasattr(command, "commands"):
            assert words[0] in command.commands, f"hptctl {line}"
            command = command.commands[words.pop(0)]
        known = {option for parameter in command.params for option in parameter.opts}
        given = {word for word in words if word.startswith("-")}
        assert given <= known | {"--help"}, f"hptctl {line}"


def test_the_readme_shows_every_command() -> None:
    for name in tree().commands:  # type: ignore[attr-defined]
        assert f"hptctl {name}" in README, name


def test_a_field_of_the_readme_exists() -> None:
    for field in re.findall(r"`--set ([a-z_.]+)=", README):
        assert field in fields(PretrainConfig) | fields(EvaluateConfig), field


@pytest.mark.parametrize("model", [PretrainConfig, EvaluateConfig])
def test_every_field_says_what_it_means(model: type[PretrainConfig] | type[EvaluateConfig]) -> None:
    assert not [name for name, meaning in fields(model).items() if not meaning]


def test_the_readme_lists_the_catalogue() -> None:
    for name in CATALOG:
        assert f"`{name}`" in README


def test_nothing_names_a_package_registrys_host() -> None:
    root = Path(__file__).parents[1]
    for path in (root / "pyproject.toml", root / "README.md", root / ".ci" / "run"):
        assert not re.search(r"pypi|pythonhosted|download\.pytorch", path.read_text()), path
