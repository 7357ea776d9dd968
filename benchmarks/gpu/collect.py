"""What came home from slices of a GPU: runs into the working folder, records beside earlier ones, and what is new.

    uv run python benchmarks/gpu/collect.py OUT --folder work

`work/runs` and its tracking store get the runs, `work/slices` one record per slice. At the end stands the command that
prepares the next slice from there.
"""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import Any


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, nargs="+", help="folders that `run.py` filled, the oldest first")
    parser.add_argument("--folder", type=Path, required=True, help="the working folder of the study here")
    options = parser.parse_args()
    try:
        collect([out.resolve() for out in options.out], options.folder.resolve())
    except (OSError, ValueError) as error:
        sys.exit(f"error: {error}")


def collect(outs: list[Path], folder: Path) -> None:
    (folder / "slices").mkdir(parents=True, exist_ok=True)
    for out in outs:
        record = read(out)
        print(f"{out}: {time.strftime('%Y-%m-%d %H:%M', time.gmtime(record['began']))} UTC, {record['machine']}")
        kept, new = keep(record, folder / "slices")
        print(f"  {kept}" + ("" if new else " (was here)"))
        for line in [*tests_in_words(record), *tables_in_words(record), *study_in_words(record)]:
            print(f"  {line}")
        archives = [out / f"{name}.tar" for name in ("records", "weights") if any(out.glob(f"{name}.tar.*"))]
        if archives:
            for line in hptctl("runs", "import", *map(str, archives), cwd=folder).splitlines():
                print(f"  {line}")
    print(next_command(record, folder))


def read(out: Path) -> dict[str, Any]:
    file = out / "slice.json"
    if not file.is_file():
        raise ValueError(f"there is no {file}; name a folder that run.py filled")
    record: dict[str, Any] = json.loads(file.read_text())
    return record


def keep(record: dict[str, Any], folder: Path) -> tuple[Path, bool]:
    """The slice's record in a file of its own, named by when it began; and whether it is new."""
    text = json.dumps(record, indent=1)
    stem = time.strftime("%Y%m%d-%H%M%S", time.gmtime(record["began"]))
    for number in range(1, 1000):
        file = folder / (f"{stem}.json" if number == 1 else f"{stem}-{number}.json")
        if not file.exists():
            file.write_text(text)
            return file, True
        if file.read_text() == text:
            return file, False
    raise ValueError(f"{folder} has a thousand records of {stem}")


def tests_in_words(record: dict[str, Any]) -> list[str]:
    found = record.get("tests") or {}
    if "cases" not in found:
        return [f"tests: {found.get('why', 'not begun')}"]
    lines = [", ".join(f"{found[state]} {state}" for state in ("passed", "failed", "skipped"))]
    named = {name: case for name, case in found["cases"].items() if case["state"] != "passed"}
    lines += [f"{case['state']} {name}: {first_line(case['why'])}" for name, case in named.items()]
    return [f"tests: {lines[0]}", *lines[1:]]


def first_line(text: str) -> str:
    return (text.strip().splitlines() or [""])[0][:200]


def tables_in_words(record: dict[str, Any]) -> list[str]:
    """Each table of the benchmark as ratios: seconds of a step, and FLOP/s, by the bare step's and by the peak."""
    found = record.get("benchmark") or {}
    if "tables" not in found:
        return [f"benchmark: {found.get('why', 'not begun')}"]
    lines = []
    for name, table in found["tables"].items():
        figures = table["figures"]
        if figures is None:
            why = "it was ended for time" if table["ended_for_time"] else f"exit code {table['exit_code']}"
            lines.append(f"benchmark {name}: no figures, {why}")
            continue
        repeats = max((len(taken) for taken in figures["seconds_per_step"].values()), default=0)
        of = f"{figures['device']}, {figures['precision']}, {figures['workers']} workers, torch {figures['torch']}"
        peak = f"peak {figures['peak_flops'] / 1e12:.3g} TFLOP/s"
        lines.append(f"benchmark {name}: {of}, medians of {repeats}, {peak}")
        bound = figures["medians"].get("bare")
        lines.append(f"  {'':10}{'x bare':>8}{'of peak':>9}{'images/s':>10}")
        for row, median in figures["medians"].items():
            ratio = f"{median / bound:8.3f}" if bound else " " * 8
            share = figures["flops_per_step"][row] / median / figures["peak_flops"]
            lines.append(f"  {row:10}{ratio}{share:9.1%}{figures['config']['batch_size'] / median:10.0f}")
        lines += [f"  {row:10}left out: {why}" for row, why in figures["left_out"].items()]
    return lines


def study_in_words(record: dict[str, Any]) -> list[str]:
    found = record.get("study") or {}
    if "exit_code" not in found:
        return [f"study: {found.get('failed') or found.get('why') or 'not begun'}"]
    cells = found.get("cells")
    counts = ", ".join(f"{many} {state}" for state, many in cells.items()) if cells else "its cells were not counted"
    lines = [f"study {record['study_file']}: {counts}; {found['seconds']:.0f} s"]
    if found.get("failed"):
        lines.append(f"study: failed, {found['failed']}")
    packed = found.get("packed", {})
    if left_out := packed.get("left_out"):
        lines.append(f"runs that did not come home: {', '.join(left_out)}")
    if stayed := packed.get("stayed"):
        named = ", ".join(f"{name} ({bytes / 2**20:.0f} MiB)" for name, bytes in stayed.items())
        lines.append(f"weights that did not come home, and that the study goes on from: {named}")
    return lines


def next_command(record: dict[str, Any], folder: Path) -> str:
    """What prepares the next slice: as this one was, and going on from the folder."""
    words = without(without(record["asked"], "--go-on"), "--from")
    words += ["--from", str(folder)] if record["study_file"] and any(folder.glob("runs/*/run.json")) else []
    return f"next: uv run python benchmarks/gpu/prepare.py {shlex.join(words)}"


def without(words: list[str], option: str) -> list[str]:
    """A command's words without an option and its values."""
    kept, inside = [], False
    for word in words:
        inside = word == option or (inside and not word.startswith("--"))
        kept += [] if inside else [word]
    return kept


def hptctl(*words: str, cwd: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "hptctl", *words], cwd=cwd, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise ValueError((done.stderr.strip().splitlines() or [f"hptctl {words[0]} failed"])[-1])
    return done.stdout


if __name__ == "__main__":
    main()
