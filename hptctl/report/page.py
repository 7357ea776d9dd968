"""The report as one self-contained HTML file: no network, a script that sorts tables, the same bytes for the same runs.

The context of the templates is `Page` below and the dataclasses of its parts: they declare all that a page says.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import combinations, groupby
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

import hptctl
from hpt.data.embedded import TOY
from hpt.errors import ConfigError
from hpt.files import write_text
from hpt.statistics import NOT_SURE_BECAUSE
from hptctl.charts import drawing
from hptctl.charts.drawing import Chart
from hptctl.format import count, thousands, when
from hptctl.report import formats, panels
from hptctl.report.answer import Answer, answer, lead, picture, winners
from hptctl.report.deviations import Deviation, deviations
from hptctl.report.findings import Findings
from hptctl.report.frame import counted
from hptctl.report.panels import Chains, CostRow, Robustness
from hptctl.report.provenance import Provenance, Settings, provenance
from hptctl.report.section import Section, section
from hptctl.report.selection import EVERYTHING, Selection, read
from hptctl.report.tables import Matrix, Table, matrix, table


@dataclass(frozen=True)
class Summary:
    """What was written."""

    datasets: int
    """Datasets that have a section."""
    runs: int
    """Runs in the table of all runs, whatever their kind and state."""
    bytes: int
    path: Path


@dataclass(frozen=True)
class Page:
    title: str
    experiments: tuple[str, ...]
    newest: str
    counts: str
    banner: str
    """What stands above the answer where every base is a toy; empty elsewhere."""
    toy: str
    """What is said of a dataset whose base is a toy."""
    lead: str
    winners: str
    picture: Chart | None
    judged: int
    """Verdicts that hold together."""
    not_sure: str
    """Why a verdict is that."""
    unpaired: bool
    """Whether chance in the images was taken from the binomial law for any difference that answers."""
    answers: tuple[Answer, ...]
    deviations: tuple[tuple[str, tuple[Deviation, ...]], ...]
    """(stage, its deviations)."""
    presets: tuple[str, ...]
    """Presets other than the protocol's own, among the runs that count."""
    tables: tuple[Table, ...]
    matrices: tuple[Matrix, ...]
    policies: tuple[Robustness, ...]
    shares: tuple[Robustness, ...]
    chains: tuple[Chains, ...]
    costs: tuple[CostRow, ...]
    sections: tuple[Section, ...]
    brief: bool
    """Whether the sections have the figures alone."""
    provenance: tuple[Provenance, ...]
    settings: tuple[Settings, ...]
    unlisted: int
    """Runs that are not in the table of runs, since no figure of a brief page rests on them."""
    reproducible: bool
    """Whether the page leaves out what depends on when, where and under which name a run ran."""


CHARTS = 8
"""Charts of a dataset that has all of them."""
WHOLE = 40
"""A page of more datasets is brief: whole sections of 160 are 1,000 charts and as many tables of sweeps, which nobody
reads at once, and no browser scrolls with ease."""


def write(
    out: Path,
    selection: Selection = EVERYTHING,
    *,
    format: str | None = None,
    images: int = 0,
    reproducible: bool = False,
) -> Summary:
    """Write the report on a selection of runs to `out`, atomically.

    `format` is one of `formats.FORMATS`; left out, the suffix of `out` says it. `images` of each dataset are drawn into
    a page. A `reproducible` one has the same bytes for equal results (`selection.read`).

    Raises:
        RunError: the store, experiment or run does not exist, or has no finished evaluation.
        DataError: no run is of the dataset.
        ConfigError: the format is unknown, or `out` cannot be written.
    """
    wanted = formats.of(out, format)
    with _uncollected():
        findings = read(selection, reproducible=reproducible)
        text = render(findings, wanted, images=images)
    try:
        write_text(out, text)
    except OSError as error:
        raise ConfigError(f"the report cannot be written to {out}: {error.strerror}", "choose another --out") from None
    return Summary(len(findings.targets), len(findings.frame), len(text.encode()), out)


def render(findings: Findings, format: str, *, images: int = 0) -> str:
    """The report as text in one of `formats.FORMATS`; a page draws `images` of each dataset."""
    if format == "html":
        many = len(findings.targets)
        with drawing.beside((CHARTS if many <= WHOLE else 1) * many):
            shown = dict(zip(findings.frame["run_id"], findings.frame["shown_id"], strict=True))
            return of_template("report.html.j2", build(findings, images=images), shown)
    return formats.FORMATS[format](findings)


def build(findings: Findings, *, images: int = 0) -> Page:
    """All that the page says; reads the histories of the pretrainings that it draws, and `images` of each dataset."""
    frame, targets = findings.frame, findings.targets
    ids = {target: f"dataset-{i}" for i, target in enumerate(targets, 1)}
    answers = tuple(answer(findings, target, ids[target]) for target in targets)
    runs = counted(frame)
    whole = len(targets) <= WHOLE
    listed = frame if whole else frame[frame["run_id"].isin(findings.behind())]
    rows, settings = provenance(listed)
    return Page(
        title="Does further pretraining help?",
        experiments=tuple(sorted(set(frame["experiment"]))),
        newest=when(float(frame["end"].max())),
        counts=", ".join(
            (
                count(len(targets), "dataset"),
                count(len(set(runs["arm"])), "strategy", "strategies"),
                count(len(runs), "evaluation that counts", "evaluations that count"),
                count(len(frame), "run in all", "runs in all"),
            )
        ),
        banner=TOY if all(each.toy for each in answers) else "",
        toy=TOY,
        lead=lead(answers),
        winners=winners(findings),
        picture=picture(findings),
        judged=findings.difference.judged,
        not_sure=NOT_SURE_BECAUSE,
        unpaired=any(
            not findings.difference(a, b).measured for t in targets for a, b in combinations(findings.rivals(t), 2)
        ),
        answers=answers,
        deviations=tuple((stage, tuple(found)) for stage, found in groupby(deviations(frame), key=lambda d: d.stage)),
        presets=tuple(sorted(set(runs["preset"]) - {"", "paper"})),
        tables=tuple(table(findings, evaluation) for evaluation in findings.evaluations),
        matrices=tuple(found for each in findings.evaluations if (found := matrix(findings, each))),
        policies=panels.policies(findings),
        shares=panels.shares(findings),
        chains=panels.chains(findings),
        costs=panels.costs(findings),
        sections=tuple(section(findings, target, ids[target], images, whole=whole) for target in targets),
        brief=not whole,
        provenance=rows,
        settings=settings,
        unlisted=len(frame) - len(listed),
        reproducible=findings.reproducible,
    )


@contextmanager
def _uncollected() -> Iterator[None]:
    """Switch off Python's collector of cycles, whose walks over all runs take a fifth of the time."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


def of_template(name: str, page: object, shown_ids: Mapping[str, str] | None = None) -> str:
    """A page as HTML: a template, and what it says; `shown_ids` are runs' ids as pages name them."""
    return _environment(shown_ids or {}).get_template(name).render(page=page)


def templates() -> Path:
    """The folder of the templates: inside the package in a wheel, beside it in a checkout."""
    package = Path(hptctl.__file__).parent
    return next(place for place in (package / "templates", package.parent / "templates") if place.is_dir())


def _environment(shown_ids: Mapping[str, str]) -> Environment:
    environment = Environment(
        loader=FileSystemLoader(templates()),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["thousands"] = thousands
    environment.filters["shown_id"] = shown_ids.__getitem__
    return environment
