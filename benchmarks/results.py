"""What a study has found so far, for docs/: every figure with its seeds, interval and runs, and what is not known yet.

    uv run python benchmarks/results.py WORK/claims-cpu.toml --base "supervised ResNet-18, ..."

Run it again whenever the study has gone on; other studies' sections stay. `docs/results.json` has all of it, and
`docs/results.md` is made of that. The study's file lies in its working folder.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections import Counter, defaultdict
from datetime import UTC, datetime
from itertools import takewhile
from pathlib import Path
from typing import Any

DOCS = Path(__file__).parents[1] / "docs"
ABOUT = """# What has been measured

Made by `benchmarks/results.py` of the runs that it names; `results.json` beside this page has every figure with its
interval, seeds and runs. Test figures are computed once, of what val chose. Verdicts are the report's: intervals cover
the chance in images and seeds, and all verdicts of a study hold together at 95 %; "not sure" is a difference whose own
interval leaves out zero, but that does not hold among all of them. A section says what it rests on and what is left.
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", type=Path, help="the study's file, in its working folder")
    parser.add_argument("--base", help="what the base is, and its own figures; as before if left out")
    parser.add_argument("--limits", help="what the study cannot say; as before if left out")
    parser.add_argument("--out", type=Path, default=DOCS, help="in place of docs/")
    options = parser.parse_args()
    options.out.mkdir(exist_ok=True)
    file = options.out / "results.json"
    known: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}
    before = known.get(options.study.stem, {})
    said = {"base": options.base or before.get("base", ""), "limits": options.limits or before.get("limits", "")}
    known[options.study.stem] = said | found(options.study)
    file.write_text(json.dumps(known, indent=1, sort_keys=True) + "\n")
    sections = [section(name, known[name]) for name in sorted(known)]
    (options.out / "results.md").write_text("\n".join([ABOUT, *sections]))
    print(f"{options.out / 'results.md'}: {', '.join(sorted(known))}")


def found(study: Path) -> dict[str, Any]:
    """What the working folder tells of a study."""
    status = json.loads(hptctl(study, "study", "status", study.name, "--json"))
    report = json.loads(hptctl(study, "report", "--study", study.stem, "--format", "json", "--out", "-"))
    page = hptctl(study, "report", "--study", study.stem, "--format", "md", "--out", "-").splitlines()
    of_study = {each["name"] for each in report["runs"]}
    runs = [each for each in json.loads(hptctl(study, "runs", "list", "--json")) if each["name"] in of_study]
    facts = {
        each["name"]: json.loads((study.parent / "runs" / each["name"] / "status.json").read_text()) for each in runs
    }
    machines = Counter(each["facts"].get("hardware", "") for each in facts.values())
    images = {
        each["tags"]["dataset"]: facts[each["name"]]["facts"].get("split_counts", "")
        for each in runs
        if each["kind"] == "linear"
    }
    left: dict[str, list[int]] = defaultdict(list)
    for cell in status["cells"]:
        if cell["kind"] == "pretrain" and cell["state"] != "done":
            config = cell["config"]
            left[f"{config['strategy']} of {config['steps']:,} steps on {Path(config['dataset']).stem}"].append(
                config["seed"]
            )
    return {
        "definition": study.read_text(),
        "commands": sorted({each["command"] for each in report["runs"]}),
        "commits": sorted({each["commit"] for each in report["runs"] if each["commit"]}),
        "versions": sorted({each["version"] for each in report["runs"] if each["version"]}),
        "machines": sorted(machine for machine in machines if machine),
        "days": sorted({datetime.fromtimestamp(each["created"], UTC).strftime("%Y-%m-%d") for each in runs}),
        "images": dict(sorted(images.items())),
        "cells": status["counts"],
        "left": {what: sorted(seeds) for what, seeds in left.items()},
        "answer": [line for line in takewhile(lambda line: not line.startswith("## "), page[2:]) if line],
        **{key: report[key] for key in ("answers", "figures", "differences", "scores", "speed_ups", "deviations")},
        "runs": [{key: value for key, value in each.items() if key != "settings"} for each in report["runs"]],
    }


def hptctl(study: Path, *words: str) -> str:
    command = [sys.executable, "-m", "hptctl", *words]
    return subprocess.run(command, cwd=study.parent, check=True, stdout=subprocess.PIPE, text=True).stdout


def section(name: str, study: dict[str, Any]) -> str:
    """A study's part of the page."""
    done, every = study["cells"].get("done", 0), sum(study["cells"].values())
    about = next(
        (
            line.split("=", 1)[1].strip().strip('"')
            for line in study["definition"].splitlines()
            if line.startswith("about")
        ),
        "",
    )
    lines = [f"## {name}: {about}", "", *study["answer"], ""]
    lines += [f"- Base: {study['base']}"] if study["base"] else []
    lines += [f"- Images: {'; '.join(f'{which} {counts}' for which, counts in study['images'].items())}"]
    days = " to ".join(dict.fromkeys([study["days"][0], study["days"][-1]]))
    program = f"hptctl {', '.join(study['versions'])} at {', '.join(study['commits'])}"
    lines += [f"- Made on {days}, {', '.join(study['machines'])}; {program}"]
    commands = ", ".join(f"`{command}`" for command in study["commands"])
    lines += [f"- Commands: {commands}; the study's file is in `results.json`", ""]
    figures = sorted(study["figures"], key=lambda each: each["dataset"])
    for evaluation in dict.fromkeys(each["evaluation"] for each in study["figures"]):
        lines += table(evaluation, [each for each in figures if each["evaluation"] == evaluation])
    lines += [f"Done: {done} of {every} cells." + (" Not known yet:" if study["left"] else ""), ""]
    lines += [
        f"- {what}, {len(seeds)} {'seed' if len(seeds) == 1 else 'seeds'}" for what, seeds in study["left"].items()
    ]
    lines += ["", f"What this cannot say: {study['limits']}"] if study["limits"] else []
    return "\n".join(lines) + "\n"


def table(evaluation: str, figures: list[dict[str, Any]]) -> list[str]:
    """Test figures of each arm, in percent, and what they are above the base's; the interval in brackets."""
    lines = [
        f"{evaluation}, test, %:",
        "",
        "| | arm | seeds | val | test | above base | verdict |",
        "|---|---|---:|---:|---:|---|---|",
    ]
    for each in figures:
        spread = f" ± {100 * each['test_std']:.1f}" if each["test_std"] is not None else ""
        above = ""
        if each.get("less_base") is not None:
            above = f"{100 * each['less_base']:+.1f}"
            if each.get("less_base_low") is not None:
                above += f" ({100 * each['less_base_low']:+.1f} to {100 * each['less_base_high']:+.1f})"
        verdict = each.get("less_base_verdict") or ""
        lines.append(
            f"| {each['dataset']} | {each['arm']} | {each['seeds']} | {100 * each['val']:.1f} |"
            f" {100 * each['test']:.1f}{spread} | {above} | {verdict} |"
        )
    return [*lines, ""]


if __name__ == "__main__":
    main()
