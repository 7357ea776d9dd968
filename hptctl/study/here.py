"""Images and weights, looked at in this process, on this machine's devices."""

from __future__ import annotations

from hpt.config import EvaluateConfig, PretrainConfig
from hpt.data.dataset import Dataset, load, load_streamed
from hpt.dense.dataset import load as load_dense
from hpt.dense.targets import TASK_OF
from hpt.errors import DataError, RunError, WeightsError
from hpt.processes import planned_precision
from hptctl import console, deadline
from hptctl.runs.weights import find_weights, read_weights
from hptctl.study.materials import STREAMED, Images, key_of


class Here:
    """Looks for itself; a dataset is read once."""

    def __init__(self) -> None:
        self._datasets: dict[tuple[str, int, str], Dataset | DataError] = {}

    def images(self, config: PretrainConfig | EvaluateConfig) -> Images:
        dataset = self.dataset(config)
        sizes = {split: len(rows) for split, rows in dataset.splits.items()}
        return Images(dataset.fingerprint, dataset.split_fingerprint, sizes)

    def dataset(self, config: PretrainConfig | EvaluateConfig) -> Dataset:
        """The dataset of a cell.

        Raises:
            DataError: it is not here, or not fit.
        """
        key = key_of(config)
        if key not in self._datasets:
            try:
                with console.Display(follow=deadline.follow) as display:
                    if task := TASK_OF.get(key[2]):
                        dense = load_dense(key[0], task, config.data, side=key[1], progress=display.progress)
                        self._datasets[key] = dense.dataset
                    else:
                        read = load_streamed if key[2] == STREAMED else load
                        self._datasets[key] = read(key[0], config.data, side=key[1], progress=display.progress)
            except DataError as error:
                self._datasets[key] = error
        found = self._datasets[key]
        if isinstance(found, DataError):
            raise found
        return found

    def readable(self, config: PretrainConfig | EvaluateConfig) -> Dataset | None:
        try:
            return self.dataset(config)
        except DataError:
            return None

    def sha256(self, weights: str) -> str | None:
        try:
            return read_weights(find_weights(weights)[0]).sha256
        except (WeightsError, RunError):
            return None

    def precision(self, config: PretrainConfig | EvaluateConfig) -> str:
        return planned_precision(config)
