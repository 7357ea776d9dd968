"""Nine heads of a linear probe (three learning rates, three reruns) beside one: both in the protocol's form.

uv run python benchmarks/probe.py IMAGES.zip --image-size 64
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path

from hpt import encoder
from hpt.callbacks import Callbacks
from hpt.config import EvaluateConfig
from hpt.data.dataset import load
from hpt.evaluate.linear import train_probe
from hpt.evaluate.setup import Setup
from hpt.processes import Compute, Processes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", type=Path, help="a folder or zip of labelled images")
    parser.add_argument("--image-size", type=int, default=64)
    parser.add_argument("--backbone", default="resnet18")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path, help="write the figures here")
    options = parser.parse_args()

    device = Processes(1, options.device).device
    common = {"kind": "linear", "weights": "", "dataset": str(options.images), "image_size": options.image_size}
    banks = {"one head": {"lrs": (0.3,), "reruns": 1}, "nine heads": {"lrs": (0.3, 3.0, 30.0), "reruns": 3}}
    seconds: dict[str, list[float]] = {name: [] for name in banks}
    for _ in range(options.repeats):
        for name, bank in banks.items():
            linear = bank | {"steps": options.steps, "eval_every": options.steps}
            config = EvaluateConfig.model_validate(common | {"backbone": options.backbone, "linear": linear})
            data = load(config.dataset, config.data, side=config.data.side(config.image_size))
            backbone = encoder.build(config.backbone, seed=0).to(device)
            times: list[float] = []
            progress = lambda done, total, what, times=times: (  # noqa: E731
                times.append(time.perf_counter()) if what == "probing" else None
            )
            train_probe(Setup(config, data, backbone, Compute.of(config, device), Callbacks(progress=progress)))
            seconds[name].append((times[-2] - times[0]) / (len(times) - 2))  # the last step evaluates
    medians = {name: statistics.median(taken) for name, taken in seconds.items()}
    for name, taken in seconds.items():
        spread = (max(taken) - min(taken)) / medians[name]
        print(
            f"{name:12}{medians[name]:8.3f} s/step{spread:8.1%} spread{medians[name] / medians['one head']:8.3f} x one"
        )
    if options.json:
        options.json.write_text(json.dumps({"seconds_per_step": seconds, "medians": medians}, indent=1))


if __name__ == "__main__":
    main()
