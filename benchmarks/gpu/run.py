"""A slice of a GPU's time, put to use: tests that need a GPU, the benchmark, and as much of a study as time allows.

    python benchmarks/gpu/run.py carried/portion-* --out OUT --for 8m

For a machine without network whose Python has PyTorch and torchvision; `prepare.py` made what is carried there. In
turn, each within its share of the time: the tests, the benchmark at 64 and at 224 px, `hptctl study run`, and the
packing of what came of it into at most eight files of 16 MiB:

    slice.json                what was done and measured; rewritten after each step
    log.txt                   what the programs printed
    records.tar.001 ...       the runs that are new, without weights, by `hptctl runs export`
    weights.tar.001 ...       those of them whose weights the study goes on from, as far as `--bring` allows

Exit code 75: there is more to do. `collect.py` takes OUT at home. Only the standard library and Pillow until the
carried packages are installed.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from statistics import median
from typing import Any
from xml.etree import ElementTree

from needed import state_of, weights_of, with_weights
from portions import PortionError, join, read_manifest

MORE = 75
"""The exit code of what stopped in good order with something left, sysexits' EX_TEMPFAIL."""
PART = 15 * 2**20
PARTS = 6
"""Beside `slice.json` and `log.txt`, which are small."""
AT_HOME = "at-home.json"
"""In the work folder: of each run that is at home what it was like then, and whether its weights are, too."""
LOG = 2 * 2**20
"""Bytes of the log that come back, its last ones."""
SHARES = {"tests": 0.2, "benchmark": 0.45}
"""Of the time; the study takes what is left."""
LEAST = {"tests": 15.0, "benchmark": 45.0, "study": 30.0}
"""Seconds below which a step is not begun."""
PACKING = 0.1
"""The share of the time that is kept for packing."""
GRACE = 20.0
"""Seconds that a program gets to save what it has, after it was asked to stop."""
PHOTOGRAPH = (512, 384)
BENCHMARKS: tuple[dict[str, Any], ...] = (
    {"name": "resnet18-64", "backbone": "resnet18", "side": 64, "rows": "bare ready whole graph ours standard lightly"},
    {
        "name": "resnet50-224",
        "backbone": "resnet50",
        "side": 224,
        "rows": "bare ready whole graph ours standard lightly",
    },
)
TINY: tuple[dict[str, Any], ...] = (
    {"name": "resnet18-32", "backbone": "resnet18", "side": 32, "rows": "bare ready whole ours standard lightly"},
)


@dataclass
class Slice:
    """One call, and what it has found so far."""

    out: Path
    work: Path
    manifest: dict[str, Any]
    end: float
    """When everything has to be over, by the monotonic clock."""
    seconds: float
    """The whole time."""
    environment: dict[str, str]
    tiny: bool
    skip: frozenset[str]
    bring: int
    """Bytes of archives that may go home."""
    keeps: bool
    """Whether the work folder stays for a further call."""
    found: dict[str, Any] = field(default_factory=dict)

    @property
    def left(self) -> float:
        """Seconds until packing has to begin."""
        return self.end - time.monotonic() - max(PACKING * self.seconds, 10.0)

    @property
    def project(self) -> Path:
        return self.work / "project"

    @property
    def study(self) -> Path:
        """The working folder of the study."""
        return self.work / "study"

    def write(self) -> None:
        part = self.out / "slice.json.part"
        part.write_text(json.dumps(self.found, indent=1))
        part.replace(self.out / "slice.json")

    def say(self, text: str) -> None:
        print(text, flush=True)
        with (self.out / "log.txt").open("a") as log:
            log.write(f"==== {text}\n")

    def call(
        self, words: Sequence[str], *, cwd: Path, within: float, environment: dict[str, str] | None = None
    ) -> Done:
        """A Python program and all that it starts, ended after `within` seconds; its words go to the log."""
        start = time.monotonic()
        with (self.out / "log.txt").open("a") as log, tempfile.TemporaryFile("w+") as output:
            log.write(f"$ python {' '.join(words)}\n")
            log.flush()
            process = subprocess.Popen(
                [sys.executable, *words],
                cwd=cwd,
                env=self.environment | (environment or {}),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=log,
                start_new_session=True,
            )
            late = not _ended(process, within)
            if late:
                _signal(process, signal.SIGTERM)
                _ended(process, min(GRACE, max(2.0, self.end - time.monotonic() - 5.0)))
            _signal(process, signal.SIGKILL)  # also what it left behind
            process.wait()
            output.seek(0)
            said = output.read()
            log.write(said)
        return Done(process.returncode, late, round(time.monotonic() - start, 1), said)


@dataclass(frozen=True)
class Done:
    """How a program ended."""

    code: int
    late: bool
    """Whether it had to be ended."""
    seconds: float
    output: str

    def record(self) -> dict[str, Any]:
        return {"exit_code": self.code, "ended_for_time": self.late, "seconds": self.seconds}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("carried", type=Path, nargs="+", help="the portions, or the folder that they lie in")
    parser.add_argument("--out", type=Path, required=True, help="for the files that go home")
    parser.add_argument("--for", type=seconds_of, required=True, dest="seconds", help="90s, 8m or 1h, all in all")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--tiny", action="store_true", help="the benchmark at a size for a trial on a CPU")
    parser.add_argument("--skip", default="", help="steps to leave out: tests,bench,study")
    parser.add_argument("--work", type=Path, help="a folder to work in that stays: the next call here goes on from it")
    parser.add_argument(
        "--bring", type=megabytes, default=PART * PARTS, metavar="SIZE", help="archives that may go home: 90M, the most"
    )
    options = parser.parse_args()
    began = time.monotonic()
    try:
        sys.exit(spend(options, began))
    except (PortionError, OSError, ValueError) as error:
        sys.exit(f"error: {error}")


def spend(options: argparse.Namespace, began: float) -> int:
    manifest = read_manifest(options.carried)
    options.out.mkdir(parents=True, exist_ok=True)
    skip = {{"bench": "benchmark"}.get(name, name) for name in options.skip.split(",") if name}
    if unknown := skip - {"tests", "benchmark", "study"}:
        raise ValueError(f"--skip {min(unknown)}: there are tests, bench and study")
    with contextlib.ExitStack() as stack:
        work = options.work or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="slice-")))
        work.mkdir(parents=True, exist_ok=True)
        own = Slice(
            out=options.out.resolve(),
            work=work.resolve(),
            manifest=manifest,
            end=began + options.seconds,
            seconds=options.seconds,
            environment=environment_of(work.resolve(), options.device),
            tiny=options.tiny,
            skip=frozenset(skip),
            bring=options.bring,
            keeps=options.work is not None,
        )
        own.found = {
            "began": time.time(),
            "seconds_given": options.seconds,
            "device": options.device,
            "machine": f"Python {platform.python_version()}, {os.cpu_count()} cores, {platform.machine()}",
            "commit": manifest["commit"],
            "asked": manifest["asked"],
            "study_file": manifest["study"],
        }
        lacking = join(manifest, options.carried, own.work)
        install(own)
        own.found["lacking"] = lacking
        for name, step in {"tests": tests, "benchmark": benchmark, "study": study}.items():
            if name in manifest["steps"]:
                own.found[name] = step(own)
                own.write()
        own.found["seconds"] = round(time.monotonic() - began, 1)
        own.write()
        shorten(own.out / "log.txt", LOG)
        return verdict(own)


def verdict(own: Slice) -> int:
    """The exit code, with a line that says why."""
    found = own.found
    took = f"{found['seconds']:.0f} of {own.seconds:.0f} s"
    left = [name for name in ("tests", "benchmark") if found.get(name, {}).get("left")]
    after = found.get("study") or {}
    if after.get("failed"):
        own.say(f"the study failed: {after['failed']}; {took}")
        return 1
    if after.get("left"):
        left.append("study")
    left_here = after.get("packed", {}).get("left_out", [])
    if left or left_here:
        what = ", ".join([*left, *([f"{len(left_here)} runs did not fit"] if left_here else [])])
        own.say(f"there is more to do: {what}; {took}")
        return MORE
    own.say(f"all is done; {took}")
    return 0


# ---- the steps


def install(own: Slice) -> None:
    """Lay the carried packages where this Python finds them, and the project's tests and benchmarks beside.

    A virtual environment would not see PyTorch where that is in one itself.
    """
    start = time.monotonic()
    shutil.unpack_archive(own.work / "project.tar.gz", own.project, filter="data")
    own.study.mkdir(exist_ok=True)
    packages = sorted(map(str, (own.work / "wheels").glob("*.whl")))
    flags = "--quiet --no-index --no-deps --no-compile --no-cache-dir --disable-pip-version-check --upgrade"
    words = ["-m", "pip", "install", *flags.split(), "--target", str(own.work / "site"), *packages]
    done = own.call(words, cwd=own.work, within=120.0)
    if done.code:
        raise OSError(f"the carried packages could not be installed; see {own.out / 'log.txt'}")
    own.found["install_seconds"] = round(time.monotonic() - start, 1)
    own.say(f"installed {len(packages)} packages in {own.found['install_seconds']} s")


def tests(own: Slice) -> dict[str, Any]:
    """The tests that need a GPU; only files that have some, since others import what is not here."""
    within = own.left * SHARES["tests"]
    if reason := not_begun(own, "tests", within):
        return reason
    marked = [file for file in (own.project / "tests").rglob("test_*.py") if "mark.gpu" in file.read_text()]
    record = own.work / "junit.xml"
    record.unlink(missing_ok=True)
    words = ["-m", "pytest", "-m", "gpu", "-o", "addopts=--strict-markers --import-mode=importlib", "-ra", "--color=no"]
    words += [
        "-p",
        "no:cacheprovider",
        f"--junitxml={record}",
        *(str(file.relative_to(own.project)) for file in marked),
    ]
    done = own.call(words, cwd=own.project, within=within)
    cases = junit(record) if record.exists() else {}
    states = [each["state"] for each in cases.values()]
    counts = {state: states.count(state) for state in ("passed", "failed", "skipped")}
    said = ", ".join(f"{many} {state}" for state, many in counts.items())
    if done.code not in (0, 1) and not cases:
        said = "ended for time" if done.late else f"pytest ended with {done.code}, see log.txt"
    own.say(f"tests: {said} ({done.seconds} s)")
    return done.record() | counts | {"cases": cases, "left": done.late and not cases}


def junit(record: Path) -> dict[str, dict[str, str]]:
    """State and message of each test of a JUnit file."""
    found = {}
    for case in ElementTree.parse(record).iter("testcase"):
        bad = next((each for each in case if each.tag in {"failure", "error", "skipped"}), None)
        state = "passed" if bad is None else "skipped" if bad.tag == "skipped" else "failed"
        why = "" if bad is None else f"{bad.get('message', '')}\n{bad.text or ''}".strip()[:4000]
        found[f"{case.get('classname')}::{case.get('name')}"] = {"state": state, "why": why}
    return found


def benchmark(own: Slice) -> dict[str, Any]:
    """`benchmarks/pretraining.py` at each size, on the carried images and on photographs made of them."""
    within = own.left * SHARES["benchmark"]
    if reason := not_begun(own, "benchmark", within):
        return reason
    sets = sorted(own.study.glob("*.zip"), key=lambda file: file.stat().st_size)
    if not sets:
        return {"left": False, "why": "no image set was carried"}
    end = time.monotonic() + within
    sizes = TINY if own.tiny else BENCHMARKS
    found: dict[str, Any] = {"left": False, "tables": {}}
    for number, size in enumerate(sizes):
        share = (end - time.monotonic()) / (len(sizes) - number)
        folder = sets[-1]
        if size["side"] > 64:
            folder = own.work / "photographs"
            photographs(sets[-1], folder)
        out = own.work / f"{size['name']}.json"
        out.unlink(missing_ok=True)
        words = ["benchmarks/pretraining.py", str(folder), "--image-size", str(size["side"])]
        words += ["--backbone", size["backbone"], "--device", own.found["device"], "--json", str(out)]
        words += ["--within", f"{share * 0.9:.0f}"]
        words += ["--batch-size", "16", "--steps", "1", "--repeats", "1"] if own.tiny else ["--steps", "10"]
        words += ["--precision", "bf16"] if own.found["device"] == "cuda" else []
        done = own.call([*words, "--only", *size["rows"].split()], cwd=own.project, within=share)
        table = json.loads(out.read_text()) if out.exists() else None
        found["tables"][size["name"]] = done.record() | {"figures": table}
        found["left"] |= table is None and done.late
        own.say(f"benchmark {size['name']}: {'measured' if table else 'no figures, see log.txt'} ({done.seconds} s)")
        print(done.output, flush=True)
    return found


def photographs(images: Path, folder: Path, count: int = 640) -> None:
    """JPEG files of the size of ordinary photographs, each a mosaic of a set's images: decoding them costs as much."""
    if folder.exists():
        return
    from PIL import Image

    chosen, tile = random.Random(0), 64
    with zipfile.ZipFile(images) as archive:
        names = [each.filename for each in archive.infolist() if re.search(r"\.(jpe?g|png)$", each.filename, re.I)]
        files = [archive.read(name) for name in chosen.sample(names, min(1000, len(names)))]
    tiles = [Image.open(BytesIO(file)).convert("RGB").resize((tile, tile)) for file in files]
    (folder / "train" / "mosaics").mkdir(parents=True)
    for number in range(count):
        mosaic = Image.new("RGB", PHOTOGRAPH)
        for left in range(0, PHOTOGRAPH[0], tile):
            for top in range(0, PHOTOGRAPH[1], tile):
                mosaic.paste(chosen.choice(tiles), (left, top))
        mosaic.save(folder / "train" / "mosaics" / f"{number:04d}.jpg", quality=90)


def study(own: Slice) -> dict[str, Any]:
    """Go on with the study for the time that is left, then pack its runs."""
    if lacking := [path for path in own.found["lacking"] if path.startswith(("study/", "runs/"))]:
        own.say(f"study: waits for {', '.join(lacking)}")
        return {"left": True, "why": f"waits for {', '.join(lacking)}"}
    if reason := not_begun(own, "study", own.left):
        return reason
    carried = sorted((own.work / "runs").glob("*/*"))
    if archives := [str(file) for file in carried if file.suffix == ".001" or not file.suffix[1:].isdecimal()]:
        done = own.call(["-m", "hptctl", "runs", "import", *archives], cwd=own.study, within=own.left)
        if done.code:
            return {"left": True, "failed": "the carried runs could not be imported; see log.txt"}
    home = at_home(own)
    within = own.left - GRACE
    if reason := not_begun(own, "study", within):
        return reason
    words = ["-m", "hptctl", "study", "run", str(own.manifest["study"]), "--for", f"{within:.0f}s"]
    done = own.call(words, cwd=own.study, within=within + GRACE / 2)
    more = done.code == MORE or done.late
    found = done.record() | {"left": more or done.code != 0}
    if done.code and not more:
        found["failed"] = f"exit code {done.code}; see log.txt"
    own.say(f"study: {'more to do' if more else 'done' if not done.code else 'failed'} ({done.seconds} s)")
    own.found["study"] = found
    own.write()
    status = status_of(own)
    found["cells"] = status["counts"] if status is not None else None
    found["packed"] = pack(own, home, status["cells"] if status is not None else None)
    return found


def status_of(own: Slice) -> dict[str, Any] | None:
    """What there is of the study's cells; None where there was no time to ask."""
    left = (own.end - time.monotonic()) / 2
    done = own.call(
        ["-m", "hptctl", "study", "status", str(own.manifest["study"]), "--json"], cwd=own.study, within=max(left, 1.0)
    )
    return None if done.code else dict(json.loads(done.output))


# ---- packing


Home = dict[str, tuple[str, bool]]
"""Of each run that is at home what it was like when it came there, and whether its weights did, too."""


def stamps(folder: Path) -> dict[str, str]:
    """Of each run what changes when it is worked on."""
    found = {}
    for record in folder.glob("runs/*/run.json"):
        state = record.with_name("status.json")
        found[record.parent.name] = state.read_text() if state.exists() else ""
    return found


def at_home(own: Slice) -> Home:
    """What is at home of the runs that are here: what an earlier call in this folder has sent, and what was carried."""
    file = own.work / AT_HOME
    known = {name: (stamp, whole) for name, (stamp, whole) in json.loads(file.read_text())} if file.exists() else None
    if known is None:
        known = {
            name: (stamp, bool(weights_of(own.study / "runs" / name))) for name, stamp in stamps(own.study).items()
        }
        keep_at_home(own, known)
    return known


def keep_at_home(own: Slice, known: Home) -> None:
    (own.work / AT_HOME).write_text(json.dumps(list(known.items())))


def pack(own: Slice, home: Home, cells: Sequence[dict[str, Any]] | None) -> dict[str, Any]:
    """Export the records of the runs that are new, and what the study goes on from as far as it fits."""
    folder, now = own.study / "runs", stamps(own.study)
    for old in [*own.out.glob("records.tar*"), *own.out.glob("weights.tar*")]:
        old.unlink()
    new = sorted((name for name in now if home.get(name, ("", False))[0] != now[name]), key=lambda n: rank(folder / n))
    records, left_out = fitting(folder, new, own.bring)
    if not export(own, records, "records.tar", "--without-weights"):
        return {"runs": [], "left_out": new, "whole": [], "stayed": {}, "why": "the export failed; see log.txt"}
    home |= {name: (now[name], False) for name in records}
    wanted = with_weights(cells, folder) if cells is not None else pretrainings(folder)
    wanted = [name for name in wanted if home.get(name, ("", False)) != (now[name], True)]
    whole, stayed = pack_weights(own, wanted)
    home |= {name: (now[name], True) for name in whole}
    keep_at_home(own, home)
    own.say(
        f"packed {len(records)} runs, {len(whole)} with weights"
        + (f"; no room for {listed(left_out)}" if left_out else "")
    )
    for name, bytes in stayed.items():
        own.say(stayed_in_words(own, folder / name, bytes))
    return {"runs": records, "left_out": left_out, "whole": whole, "stayed": stayed}


def fitting(folder: Path, names: Iterable[str], room: int) -> tuple[list[str], list[str]]:
    """The runs whose records fit, in order, and the others."""
    chosen, left_out = list[str](), list[str]()
    for name in names:
        bytes = weight(folder / name) - sum(file.stat().st_size for file in weights_of(folder / name))
        (chosen if bytes <= room else left_out).append(name)
        room -= bytes if bytes <= room else 0
    return chosen, left_out


def pack_weights(own: Slice, wanted: Sequence[str]) -> tuple[list[str], dict[str, int]]:
    """Export runs with their weights, the first ones first, where there is room; and the bytes of those that stay."""
    folder, came = own.study / "runs", sorted(own.out.glob("records.tar*"))
    room = min(own.bring - sum(file.stat().st_size for file in came), (PARTS - len(came)) * PART)
    chosen, stayed = list[str](), dict[str, int]()
    for name in wanted:
        bytes = weight(folder / name)
        if bytes <= room:
            chosen.append(name)
            room -= bytes
        else:
            stayed[name] = sum(file.stat().st_size for file in weights_of(folder / name))
    if not export(own, chosen, "weights.tar"):
        stayed |= {name: sum(file.stat().st_size for file in weights_of(folder / name)) for name in chosen}
        chosen = []
    return chosen, stayed


def export(own: Slice, names: Sequence[str], file: str, *flags: str) -> bool:
    """Write runs into an archive for home, in parts; nothing of it is left where that fails or takes too long."""
    if not names:
        return True
    words = ["-m", "hptctl", "runs", "export", *names, "--alone", *flags, "--out", str(own.out / file)]
    within = max(own.end - time.monotonic() - 3.0, 1.0)
    done = own.call([*words, "--split", f"{PART // 2**20}M"], cwd=own.study, within=within)
    if done.code:
        for part in own.out.glob(f"*{file}*"):
            part.unlink()
    return not done.code


def stayed_in_words(own: Slice, run: Path, bytes: int) -> str:
    """What becomes of a run whose weights cannot go home, and how it can be kept from that."""
    kind = "backbone" if state_of(run) == "finished" else "checkpoint"
    what = (
        f"{run.name}: its {kind} of {mebibytes(bytes)} finds no room in what goes home (--bring {own.bring // 2**20}M)"
    )
    if own.keeps:
        return f"{what}; call run.py here again with the same --work, and the study goes on from it"
    config = json.loads((run / "run.json").read_text())["config"]
    speed = speed_of(run) if "steps" in config else None
    seconds = f", in about {config['steps'] * config['batch_size'] / speed:.0f} s" if speed else ""
    again = f"the next slice makes it again if cells need it{seconds}"
    return f"{what}: {again}; a slice has to hold that, or the machine to stay for a second call, with --work FOLDER"


def rank(run: Path) -> tuple[int, str]:
    """Finished evaluations, finished pretrainings, the rest, the study."""
    kind, state = json.loads((run / "run.json").read_text())["kind"], state_of(run)
    return (3 if kind == "study" else 2 if state != "finished" else 1 if kind == "pretrain" else 0), run.name


def pretrainings(folder: Path) -> list[str]:
    """The finished ones that have their weights, the oldest first."""
    records = [json.loads(file.read_text()) for file in folder.glob("*/run.json")]
    found = sorted((record for record in records if record["kind"] == "pretrain"), key=lambda record: record["created"])
    names = [record["name"] for record in found if state_of(folder / record["name"]) == "finished"]
    return [name for name in names if weights_of(folder / name)]


def speed_of(run: Path) -> float | None:
    """Images per second of a pretraining, by what it logged."""
    file = run / "metrics.jsonl"
    lines = file.read_text().splitlines(keepends=True) if file.exists() else []
    logged = [json.loads(line) for line in lines if line.endswith("\n")]
    speeds = [line["images_per_second"] for line in logged if "images_per_second" in line]
    return median(speeds) if speeds else None


def weight(run: Path) -> int:
    """Bytes of a run in an archive, nearly: each file has a header and a line in the manifest."""
    others = [file for file in run.rglob("*") if file.is_file() and "checkpoints" not in file.relative_to(run).parts]
    return sum(file.stat().st_size + 1536 for file in {*others, *weights_of(run)})


def mebibytes(bytes: int) -> str:
    return f"{bytes / 2**20:.0f} MiB"


def listed(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


# ---- helpers of the clock


def not_begun(own: Slice, name: str, within: float) -> dict[str, Any] | None:
    """Why a step is not begun: it was not wanted, or could not end."""
    if name in own.skip:
        return {"left": False, "why": "skipped"}
    if within < LEAST[name]:
        own.say(f"{name}: not begun, {max(within, 0):.0f} s are too few")
        return {"left": True, "why": f"{max(within, 0):.0f} s are too few"}
    return None


def environment_of(work: Path, device: str) -> dict[str, str]:
    """What the programs get: the carried packages first, caches in the work folder, and no GPU where none is wanted."""
    own = {
        "PYTHONPATH": str(work / "site"),
        "PYTHONUNBUFFERED": "1",
        "HPTCTL_CACHE": str(work / "cache"),
        "HPTCTL_DATA": str(work / "data"),
        "NO_PROGRESS": "1",
    }
    return dict(os.environ) | own | ({"CUDA_VISIBLE_DEVICES": ""} if device == "cpu" else {})


def _ended(process: subprocess.Popen[bytes], within: float) -> bool:
    try:
        process.wait(timeout=max(within, 0.1))
    except subprocess.TimeoutExpired:
        return False
    return True


def _signal(process: subprocess.Popen[bytes], signum: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signum)


def shorten(file: Path, most: int) -> None:
    """Keep the end of a log that is too long to come home."""
    if file.exists() and (size := file.stat().st_size) > most:
        with file.open("rb") as opened:
            opened.seek(size - most)
            end = opened.read()
        file.write_bytes(b"(the beginning is left out)\n" + end)


def megabytes(text: str) -> int:
    """`60M` in bytes, 90M at most: what fits into the files."""
    if (match := re.fullmatch(r"(\d+)M", text)) is None or not 0 < int(match[1]) * 2**20 <= PART * PARTS:
        raise argparse.ArgumentTypeError(
            f"{text!r} is no size of 1M to {PART * PARTS // 2**20}M; write for example 60M"
        )
    return int(match[1]) * 2**20


def seconds_of(text: str) -> float:
    """`90s`, `8m` or `1h` in seconds."""
    if (match := re.fullmatch(r"(\d+(?:\.\d+)?)([smh])", text)) is None or not float(match[1]):
        raise argparse.ArgumentTypeError(f"{text!r} is no time; write for example 8m")
    return float(match[1]) * {"s": 1, "m": 60, "h": 3600}[match[2]]


if __name__ == "__main__":
    main()
