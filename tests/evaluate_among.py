"""One of several processes of evaluations, as torch.distributed's variables say which; for a test, which starts them.

python evaluate_among.py DIGITS FOLDER CONFIGS
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from small_dense import dense, evaluate_exactly
from small_evaluation import run

from hpt import encoder
from hpt.config import DENSE, DataConfig, EvaluateConfig
from hpt.data.dataset import load
from hpt.dense.targets import TASK_OF
from hpt.evaluate.embeddings import extract
from hpt.processes import Processes

if __name__ == "__main__":
    digits, folder, configs = sys.argv[1:]
    dataset = load(digits, DataConfig(), side=DataConfig().side(32))
    state = encoder.build("resnet18", seed=1).state_dict()
    processes, found = Processes(2, "cpu"), {}
    for name, values in json.loads(configs).items():
        settings = EvaluateConfig.model_validate(values)
        place = Path(folder) / name
        if settings.kind in DENSE:
            data = dense(Path(folder) / f"{name} {processes.rank}" / "set", TASK_OF[settings.kind])
            result, logged = evaluate_exactly(settings, data, place, processes)
        else:
            result, logged = run(settings, dataset, state, place, processes=processes)
        found[name] = {"metrics": result.metrics, "scores": result.scores, "logged": logged}
        if name == "knn":
            features = extract(settings, dataset, state, ("train", "val"), lambda *_: None, processes).features
            found["features"] = torch.from_numpy(features)
    torch.save(found, Path(folder) / f"{processes.rank}.pt")
    processes.leave()
