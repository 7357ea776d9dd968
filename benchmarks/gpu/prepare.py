"""All that a slice of a GPU needs, on a machine without network that has PyTorch and torchvision and no more.

    uv run python benchmarks/gpu/prepare.py --out to-carry --study benchmarks/claims.toml --datasets flowers.zip

`to-carry/portion-1` and so on hold the project (the last commit), the packages that it needs and that machine lacks,
the study and what lies beside it, and the runs to go on from: of `--from work` the records of all, and the weights that
cells which are left need. `run.py` takes the portions there.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from importlib.metadata import PackageNotFoundError, requires
from importlib.util import find_spec
from pathlib import Path

from needed import with_weights
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from portions import cut

ROOT = Path(__file__).parents[2]
THERE = {"torch", "torchvision", "numpy", "pillow"}
NEEDED = (
    *("typer", "rich", "pydantic", "safetensors", "platformdirs", "filelock", "portalocker", "psutil"),
    *("nvidia-ml-py", "pyyaml"),
    "pytest",  # for the tests that need a GPU
)
"""What pretraining, evaluating, studies and archives of runs import at all; they come with what they need in turn.

The tracking store, sweeps, reports and maps of features need the rest of the project's packages: 200 MB.
"""
ALONE = ("lightly", "lightning-utilities")
"""What lightly's transforms import; the packages that it trains with stay."""
TARGET = {
    "implementation_name": "cpython",
    "platform_python_implementation": "CPython",
    "os_name": "posix",
    "sys_platform": "linux",
    "platform_system": "Linux",
    "platform_machine": "x86_64",
    "extra": "",
}
GLIBC = range(5, 29)
"""Wheels for glibc 2.5 to 2.28; pip asks for each."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="a new folder, or one that an earlier call made")
    parser.add_argument("--study", type=Path, help="the study's file")
    parser.add_argument("--datasets", nargs="+", default=[], type=Path, metavar="ZIP", help="to lie beside it")
    parser.add_argument("--beside", nargs="+", default=[], type=Path, metavar="FILE", help="too: weights, say")
    parser.add_argument(
        "--from", type=Path, metavar="WORK", dest="work", help="the study's working folder, to go on from"
    )
    parser.add_argument("--go-on", nargs="+", default=[], type=Path, metavar="TAR", help="or archives of earlier runs")
    parser.add_argument("--python", type=version, default="3.12", metavar="3.12", help="the version of Python there")
    parser.add_argument("--portion", type=megabytes, default=megabytes("62M"), help="the most that one portion takes")
    options = parser.parse_args()
    try:
        prepare(options)
    except (OSError, ValueError, subprocess.CalledProcessError) as error:
        sys.exit(f"error: {in_a_line(error)}")


def prepare(options: argparse.Namespace) -> None:
    if options.study is not None:
        tomllib.loads(options.study.read_text())
    elif options.work is not None:
        raise ValueError("--from goes on with a study; name its file with --study")
    if changed := git("status", "--porcelain", "--untracked-files=no").strip():
        print(f"note: {len(changed.splitlines())} changed files are not committed, and stay here as they were")
    renew(options.out)
    with tempfile.TemporaryDirectory() as folder:
        there = Path(folder)
        project = there / "project.tar.gz"
        git("archive", "--format=tar.gz", f"--output={project}", "HEAD")
        files = [("project.tar.gz", project)]
        files += [(f"wheels/{wheel.name}", wheel) for wheel in wheels(there / "wheels", project, options.python)]
        if options.study is not None:
            files.append((f"study/{options.study.name}", options.study))
        files += [(f"study/{file.name}", file) for file in [*options.datasets, *options.beside]]
        files += archives([*(runs_of(options.work, options.study, there) if options.work else []), *options.go_on])
        paths = [path for path, _ in files]
        if twice := {path for path in paths if paths.count(path) > 1}:
            raise ValueError(f"{min(twice)} is asked for twice")
        about = {
            "made": time.time(),
            "commit": git("rev-parse", "HEAD").strip(),
            "asked": sys.argv[1:],
            "study": options.study and options.study.name,
            "steps": ["tests", "benchmark", *(["study"] if options.study else []), "pack"],
        }
        portions = cut(files, options.out, options.portion, about)
    for portion in portions:
        size = sum(file.stat().st_size for file in portion.rglob("*") if file.is_file())
        print(f"{portion}  {size / 2**20:.1f} MiB")
    print(f"there: python benchmarks/gpu/run.py {' '.join(map(str, portions))} --out OUT --for 8m")


def wheels(folder: Path, project: Path, python: str) -> list[Path]:
    """The project as a wheel, and those that it needs there, as the project's constraints have them."""
    with tempfile.TemporaryDirectory() as source:
        shutil.unpack_archive(project, source, filter="data")
        build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
        subprocess.run(build, cwd=source, check=True, capture_output=True, text=True)
    target = TARGET | {"python_version": python, "python_full_version": f"{python}.0"}
    versions = constraints(target)
    wanted = [f"{name}=={versions[name]}" for name in sorted({*closure(NEEDED, target), *ALONE})]
    platforms = [f"manylinux_2_{minor}_x86_64" for minor in GLIBC]
    subprocess.run(
        [
            *(*pip(), "download", "--quiet", "--disable-pip-version-check", "--no-deps", "--only-binary", ":all:"),
            *("--python-version", python, "--implementation", "cp", "--dest", str(folder)),
            *(word for each in [*platforms, "manylinux2014_x86_64"] for word in ("--platform", each)),
            *wanted,
        ],
        check=True,
        capture_output=True,
        text=True,
    )
    return sorted(folder.glob("*.whl"))


def constraints(target: dict[str, str]) -> dict[str, str]:
    """The versions that the project is tested with, by name, for the Python there."""
    lines = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["uv"]["constraint-dependencies"]
    found = [Requirement(line) for line in lines]
    fitting = [each for each in found if each.marker is None or each.marker.evaluate(target)]
    return {canonicalize_name(each.name): next(iter(each.specifier)).version for each in fitting}


def closure(names: tuple[str, ...], target: dict[str, str]) -> list[str]:
    """Packages and what they need in turn, without what is there."""
    found: list[str] = []
    waiting = [Requirement(name) for name in names]
    while waiting:
        each = waiting.pop()
        name = canonicalize_name(each.name)
        if name in found or name in THERE or (each.marker is not None and not each.marker.evaluate(target)):
            continue
        found.append(name)
        try:
            waiting += [Requirement(line) for line in requires(name) or []]
        except PackageNotFoundError:
            raise ValueError(f"{name} is not installed here, so what it needs is unknown; run `uv sync`") from None
    return found


def pip() -> list[str]:
    if find_spec("pip"):
        return [sys.executable, "-m", "pip"]
    if (program := shutil.which("pip")) is None:
        raise ValueError("there is no pip here; `uv pip install pip`")
    return [program]


def runs_of(work: Path, study: Path, folder: Path) -> list[Path]:
    """Archives of the runs of a study's working folder: the records of all, and whole those that it goes on from."""
    names = sorted(file.parent.name for file in work.glob("runs/*/run.json"))
    if not names:
        return []
    cells = json.loads(hptctl("study", "status", str(study.resolve()), "--json", cwd=work))["cells"]
    if absent := {row["config"]["dataset"] for row in cells if row["state"] == "no data"}:
        raise ValueError(f"{', '.join(sorted(absent))}: not in {work}, so what is left cannot be told; put it there")
    records, weights = folder / "records.tar", folder / "weights.tar"
    hptctl("runs", "export", *names, "--alone", "--without-weights", "--out", str(records), cwd=work)
    if whole := with_weights(cells, work / "runs"):
        hptctl("runs", "export", *whole, "--alone", "--out", str(weights), cwd=work)
        print(f"with weights: {', '.join(whole)}")
    return [records, *([weights] if whole else [])]


def hptctl(*words: str, cwd: Path) -> str:
    command = [sys.executable, "-m", "hptctl", *words]
    return subprocess.run(command, cwd=cwd, check=True, capture_output=True, text=True).stdout


def archives(given: list[Path]) -> list[tuple[str, Path]]:
    """Archives of runs, each with its parts in a folder of its own, in the order in which they were given."""
    found: dict[Path, list[Path]] = {}
    for path in given:
        parts = [path] if path.is_file() else sorted(path.parent.glob(f"{path.name}.[0-9][0-9][0-9]"))
        if not parts:
            raise ValueError(f"there is no archive {path}")
        whole = path.with_suffix("") if path.suffix[1:].isdecimal() else path
        found.setdefault(whole, []).extend(parts)
    return [
        (f"runs/{number}/{part.name}", part)
        for number, parts in enumerate(found.values(), 1)
        for part in dict.fromkeys(parts)
    ]


def renew(out: Path) -> None:
    """An empty folder; what an earlier call left is removed, anything else is the user's."""
    if out.exists() and any(not each.name.startswith("portion-") for each in out.iterdir()):
        raise ValueError(f"{out} holds other things; name a new folder")
    for portion in out.glob("portion-*"):
        shutil.rmtree(portion)
    out.mkdir(parents=True, exist_ok=True)


def git(*words: str) -> str:
    return subprocess.run(["git", "-C", str(ROOT), *words], check=True, capture_output=True, text=True).stdout


def version(text: str) -> str:
    """`3.12`."""
    if re.fullmatch(r"3\.\d+", text) is None:
        raise argparse.ArgumentTypeError(f"{text!r} is no version; write for example 3.12")
    return text


def megabytes(text: str) -> int:
    """`62M` in bytes."""
    if not (text.endswith("M") and text[:-1].isdecimal() and int(text[:-1])):
        raise argparse.ArgumentTypeError(f"{text!r} is no size; write for example 62M")
    return int(text[:-1]) * 2**20


def in_a_line(error: Exception) -> str:
    if isinstance(error, subprocess.CalledProcessError):
        said = [line for line in (error.stderr or error.stdout or "").splitlines() if line.strip()]
        return f"{Path(error.cmd[0]).name} failed: {said[-1] if said else f'exit code {error.returncode}'}"
    return str(error)


if __name__ == "__main__":
    main()
