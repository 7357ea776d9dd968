"""A job that looks at what a study's cells rest on, before theirs: `python -m hptctl.study.look FOLDER`.

It decodes the images once for all, and tells by the node's own device in which precision the cells will be computed,
which whoever sends the jobs may not be able to.
"""

from __future__ import annotations

import json
import socket
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hpt.config import UNTRAINED, EvaluateConfig, PretrainConfig
from hpt.errors import HptError
from hpt.files import write_text
from hptctl.cluster.jobs import Task
from hptctl.runs import Run
from hptctl.runs.weights import would_fetch
from hptctl.study import materials
from hptctl.study.definition import Cell


def task_of(study: Run, cells: Sequence[Cell]) -> Task:
    """The task of looking at what these cells rest on; what an earlier one has found of others is forgotten."""
    folder = study.path / materials.LOOK
    folder.mkdir(exist_ok=True)
    asked = json.dumps(_asked(cells), indent=1)
    file = folder / materials.ASKED
    if not file.exists() or file.read_text(encoding="utf-8") != asked:
        (folder / materials.FOUND).unlink(missing_ok=True)
        write_text(file, asked)
    return Task(Run(folder), ("hptctl.study.look", folder.as_posix()))


def _asked(cells: Sequence[Cell]) -> dict[str, Any]:
    named = {cell.config.weights for cell in cells if not cell.needs} - {None, UNTRAINED}
    return {
        "pretrain": [each.config.model_dump(mode="json") for each in cells if isinstance(each.config, PretrainConfig)],
        "evaluate": [each.config.model_dump(mode="json") for each in cells if isinstance(each.config, EvaluateConfig)],
        "weights": sorted(str(name) for name in named if not would_fetch(str(name))),
    }


def _look(folder: Path) -> None:
    from hptctl.study.here import Here  # PyTorch, on the node

    asked = json.loads((folder / materials.ASKED).read_text(encoding="utf-8"))
    configs: list[PretrainConfig | EvaluateConfig] = [PretrainConfig.model_validate(each) for each in asked["pretrain"]]
    configs += [EvaluateConfig.model_validate(each) for each in asked["evaluate"]]
    found = materials.look(configs, asked["weights"], Here())
    materials.keep(folder, found | {"host": socket.gethostname()})


def main() -> None:
    """Look, and record how that ended."""
    from hpt import waiting
    from hpt.user_folders import give_home
    from hptctl import collector, console, environment
    from hptctl.runs.children import end_with_command
    from hptctl.runs.signals import raise_on_signals
    from hptctl.secrets import mask_tracebacks

    waiting.begin()
    collector.spare()
    environment.keep_warnings_warnings()
    mask_tracebacks()
    give_home()
    raise_on_signals()
    end_with_command()
    console.show_library_notes()
    run = Run(Path(sys.argv[1]))
    try:
        with run.working():
            run.start()
            _look(run.path)
            run.write_status(state="finished")
    except HptError as error:
        run.write_failure(error)
        console.error(str(error))
        sys.exit(error.exit_code)
    except BaseException as error:
        run.write_failure(error)
        raise


if __name__ == "__main__":
    main()
