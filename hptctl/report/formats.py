"""The report for papers and scripts: Markdown, CSV, JSON and LaTeX tables. Names are escaped as each format needs."""

from __future__ import annotations

import csv
import html
import io
import json
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from hpt.data.embedded import TOY
from hpt.errors import ConfigError, did_you_mean
from hptctl.format import percent, thousands, unbroken
from hptctl.report import answer, tables
from hptctl.report.deviations import deviations
from hptctl.report.findings import Findings
from hptctl.report.names import MISSING
from hptctl.report.results import Result
from hptctl.report.tables import Table

SUFFIXES = {".html": "html", ".htm": "html", ".md": "md", ".csv": "csv", ".json": "json", ".tex": "latex"}


def of(out: Path, format: str | None) -> str:
    """The format that was asked for, or else that of the file's suffix.

    Raises:
        ConfigError: the format is unknown, or none was asked for and the suffix is.
    """
    wanted = format or SUFFIXES.get(out.suffix.lower())
    known = ("html", *FORMATS)
    if wanted is None:
        hint = "; a browser prints the .html as PDF" if out.suffix.lower() == ".pdf" else ""
        raise ConfigError(
            f"a report cannot be written as '{out.name}'{did_you_mean(out.suffix, SUFFIXES) if out.suffix else ''}",
            f"end it in {', '.join(SUFFIXES)}, or say what it is with --format{hint}",
        )
    if wanted not in known:
        raise ConfigError(
            f"unknown --format '{wanted}'{did_you_mean(wanted, known)}", f"choose one of {', '.join(known)}"
        )
    return wanted


def rows(findings: Findings) -> list[dict[str, Any]]:
    """A row for each result, its figures as shares of 1; None where a value is missing."""
    out = []
    for result in findings.every:
        by = findings.less_base(result)
        spent = findings.costs[result.place]
        out.append(
            {
                "dataset": result.target,
                "evaluation": result.evaluation,
                "arm": result.arm,
                "strategy": result.strategy,
                "steps": result.steps,
                "metric": result.metric,
                "val": _number(result.val),
                "test": result.mean,
                "test_std": result.std,
                "seeds": len(result.figures),
                "shown": result in findings.shown_on(result.target),
                "mark": tables.figure(findings, result).mark,
                "less_base": None if by is None else by.points,
                "less_base_low": None if by is None else _number(by.low),
                "less_base_high": None if by is None else _number(by.high),
                "less_base_tie": None if by is None or by.verdict == "open" else by.verdict == "tie",
                "less_base_verdict": None if by is None else by.verdict,
                "less_base_reason": None if by is None else by.because,
                "images_seen": _number(spent.images),
                "hours": _number(spent.hours),
                "energy_wh": _number(spent.energy),
                "hardware": spent.hardware,
                "run_ids": [findings.id_of(id) for id in result.run_ids],
            }
        )
    return out


def as_csv(findings: Findings) -> str:
    """`rows` as CSV; several run ids are separated by spaces."""
    found = rows(findings)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(found[0])
    for row in found:
        writer.writerow([_csv_cell(value) for value in row.values()])
    return text.getvalue()


def as_json(findings: Findings) -> str:
    """Everything that the page rests on, as JSON."""
    pairs = []
    for target in findings.targets:
        for evaluation in findings.evaluations:
            mine = [c for c in findings.shown_on(target) if c.evaluation == evaluation]
            pairs += [_pair(findings, a, b) for i, a in enumerate(mine) for b in mine[i + 1 :]]
    frame = findings.frame
    kept = ["name", "kind", "standing", "experiment", "command", "strategy", "dataset", "steps", "seed", "labels"]
    kept += ["version", "commit", "data_fingerprint", "split_fingerprint", "weights_sha256", "digest"]
    document = {
        "answers": {target: findings.verdict(target) for target in findings.targets},
        "figures": rows(findings),
        "differences": pairs,
        "scores": {
            evaluation: [{"a": a, "b": b, **asdict(s)} for (a, b), s in findings.scores(evaluation).items()]
            for evaluation in findings.evaluations
        },
        "speed_ups": [
            {
                "dataset": target,
                "arm": f.result.arm,
                "steps": f.result.steps,
                "test": f.result.mean,
                **asdict(f.speed_up),
            }
            for target in findings.targets
            for f in findings.faster(target)
        ],
        "reproducible": findings.reproducible,
        "deviations": [asdict(found) for found in deviations(frame)],
        "runs": [
            {
                "run_id": findings.id_of(str(id)),
                **{key: str(row[key]) for key in kept},
                "settings": list(row["settings"]),
            }
            for id, row in frame[[*kept, "settings"]].to_dict("index").items()
        ],
    }
    return json.dumps(document, indent=1, allow_nan=False) + "\n"


def as_markdown(findings: Findings) -> str:
    """The answers and the tables, as Markdown."""
    answers = [answer.answer(findings, target, "") for target in findings.targets]
    lines = ["# Does further pretraining help?", "", *([f"**{TOY}**", ""] if any(each.toy for each in answers) else [])]
    lines += [_md(answer.lead(answers)), ""]
    for each in answers:
        compared = ", ".join(f"{c.points} {_md(c.arm)}{f' ({c.aside})' if c.aside else ''}" for c in each.rivals)
        after = f" after {thousands(each.steps)} steps" if each.steps else ""
        said = f"**{_md(each.arm)}** {each.figure.text} {_md(each.metric)} ({_md(each.evaluation)}){after}"
        missing = f". Missing: {', '.join(each.missing)}" if each.missing else ""
        caveats = "".join(f" {_md(caveat)}" for caveat in each.caveats)
        lines.append(f"- {_md(each.target)}: {said}{f', {compared}' if compared else ''}{missing}.{caveats}")
    for evaluation in findings.evaluations:
        found = tables.table(findings, evaluation)
        header = ["strategy", *(f"{_md(target)} ({_md(metric)})" for target, metric in found.columns)]
        body = [[_md(row.arm), *(_md_figure(figure) for figure in row.figures)] for row in found.rows]
        lines += ["", f"## Test, {_md(evaluation)}", "", *_md_table(header, body)]
        if scores := tables.matrix(findings, evaluation):
            names = [_md(arm) for arm, _ in scores.arms]
            body = [[name, *row] for name, row in zip(names, scores.rows, strict=True)]
            lines += ["", f"Wins / ties / losses of the row against the column, {_md(evaluation)}", ""]
            lines += _md_table(["", *names], body)
    return "\n".join([*lines, ""])


def as_latex(findings: Findings) -> str:
    """A LaTeX table of strategies by dataset for each evaluation; it needs the package booktabs."""
    return "\n".join(_latex_table(tables.table(findings, evaluation)) for evaluation in findings.evaluations)


FORMATS: dict[str, Callable[[Findings], str]] = {
    "md": as_markdown,
    "csv": as_csv,
    "json": as_json,
    "latex": as_latex,
}
"""Every format but html, which `hptctl.report.page` renders."""


def _pair(findings: Findings, a: Result, b: Result) -> dict[str, Any]:
    by = findings.difference(a, b)
    return {
        "dataset": a.target,
        "evaluation": a.evaluation,
        "a": a.arm,
        "b": b.arm,
        "difference": by.points,
        "low": _number(by.low),
        "high": _number(by.high),
        "tie": by.verdict == "tie",
        "verdict": by.verdict,
        "reason": by.because,
        "detectable": _number(by.detectable),
        "by": "predictions" if by.measured else "figures",
    }


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _csv_cell(value: Any) -> str:
    if isinstance(value, list):
        return " ".join(value)
    if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r")):
        return f"'{value}"  # a spreadsheet would evaluate it
    return "" if value is None else str(value)


def _md(text: str) -> str:
    r"""Text on one line, escaped so that Markdown shows it as it is: `a|b` -> `a\|b`."""
    return re.sub(r"([\\`*_{}\[\]()#+!|~$])", r"\\\1", html.escape(" ".join(text.split()), quote=False))


def _md_figure(figure: tables.TableFigure | None) -> str:
    if figure is None:
        return f"*{MISSING}*"
    value = f"{figure.value} {figure.std}".strip()
    return f"**{value}**" if figure.mark == "best" else f"{value} ({figure.said})" if figure.mark else value


def _md_table(header: Sequence[str], body: Sequence[Sequence[str]]) -> list[str]:
    lines = [header, ["---"] + ["---:"] * (len(header) - 1), *body]
    return [f"| {' | '.join(line)} |" for line in lines]


LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    **{character: f"\\{character}" for character in "&%$#_{}"},
    "±": r"$\pm$",
    "→": r"$\rightarrow$",
    "\u00a0": "~",
}


LATEX_MARKS = {"tie": r"$^{=}$", "not-sure": r"$^{\approx}$", "unsure": r"$^{?}$"}


def _latex(text: str) -> str:
    return "".join(LATEX.get(character, character) for character in " ".join(text.split(" ")))


def _latex_figure(figure: tables.TableFigure | None) -> str:
    if figure is None:
        return "--"
    value = figure.value.removesuffix(unbroken(percent(0))[-2:])
    number = rf"\textbf{{{value}}}" if figure.mark == "best" else value
    return number + (rf" {_latex(figure.std)}" if figure.std else "") + LATEX_MARKS.get(figure.mark, "")


def _latex_table(table: Table) -> str:
    columns = " & ".join(_latex(target) for target, _ in table.columns)
    metrics = " & ".join(_latex(metric) for _, metric in table.columns)
    body = [
        rf"{_latex(row.arm)} & {' & '.join(_latex_figure(figure) for figure in row.figures)} \\" for row in table.rows
    ]
    note = (
        r"test, in \%; mean $\pm$ standard deviation over seeds; val's choice in bold, "
        r"$^{=}$ not told apart from it, $^{\approx}$ not sure (alone, but not among all verdicts), "
        r"$^{?}$ of a single seed, -- missing"
    )
    return "\n".join(
        [
            f"% {_latex(table.evaluation)}: needs \\usepackage{{booktabs}}",
            r"\begin{table}",
            rf"\caption{{{_latex(table.evaluation)}: {note}.}}",
            rf"\begin{{tabular}}{{l{'r' * len(table.columns)}}}",
            r"\toprule",
            rf"strategy & {columns} \\",
            rf" & {metrics} \\",
            r"\midrule",
            *body,
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
            "",
        ]
    )
