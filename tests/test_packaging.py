"""What a wheel holds."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_the_wheel_ships_the_templates_and_they_are_found_there(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    site = tmp_path / "site"
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        archive.extractall(site)
    shipped = {Path(name).name for name in names if name.startswith("hptctl/templates/")}
    assert shipped == {path.name for path in (ROOT / "templates").iterdir()}
    assert {"hpt/py.typed", "hptctl/py.typed"} <= {*names}
    assert not [name for name in names if name.startswith(("tests/", "templates/"))]

    code = "from hptctl.report import page; print(page.__file__); print(page.templates())"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env={"PYTHONPATH": str(site)}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    module, templates = done.stdout.split()
    assert module.startswith(str(site))
    assert templates.startswith(str(site))


def test_an_editable_install_finds_the_templates_beside_the_packages() -> None:
    from hptctl.report import page

    assert page.templates() == ROOT / "templates"
