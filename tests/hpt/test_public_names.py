"""What the library promises to whoever scripts against it."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import hpt

NAMES = {
    *("Callbacks", "Dataset", "EvaluateConfig", "EvaluationResult", "HptError", "Interrupted", "Loaded", "Outcome"),
    *("PretrainConfig", "UserError", "build_backbone", "evaluate_backbone", "extract_features", "load_dataset"),
    *("pretrain_backbone", "read_weights", "resolve_config", "save_weights"),
}


def test_the_public_names_are_these_and_each_is_there() -> None:
    assert set(hpt.__all__) == NAMES == set(dir(hpt))
    for name in NAMES:
        assert callable(getattr(hpt, name)), name
    with pytest.raises(AttributeError, match="module 'hpt' has no attribute 'pretrain_backbon'"):
        _ = hpt.pretrain_backbon


def test_importing_the_library_loads_nothing_heavy() -> None:
    heavy = {"torch", "torchvision", "sklearn", "PIL"}
    code = f"import sys, hpt; hpt.PretrainConfig; print(sorted({heavy} & {{*sys.modules}}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_example_of_the_docstring_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    example = re.sub("^    ", "", "\n".join(re.findall(r"^(?:    .*|)$", hpt.__doc__ or "", re.M)), flags=re.M)
    printed: list[float] = []
    exec(example.replace('"preset": "tiny"}', '"preset": "tiny", "steps": 2}', 1), {"print": printed.append})
    assert 0.1 < printed[0] <= 1
    assert (tmp_path / "backbone.safetensors").is_file()


@pytest.mark.parametrize("package", ["hpt", "hptctl"])
def test_a_package_says_that_it_is_typed(package: str) -> None:
    assert (Path(hpt.__file__).parents[1] / package / "py.typed").is_file()
