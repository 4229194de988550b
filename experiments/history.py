"""What a run tells while it goes: rows of metrics, TensorBoard, and a line of progress."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
import ml_collections
import tensorflow as tf
import tqdm
from etils import epath

from experiments import workdir


def score(row: Mapping[str, float], part: str) -> str:
    """What a row of metrics has beside the loss, for people.

    Args:
        row: The row.
        part: `"train"` or `"eval"`.
    """
    if f"{part}_accuracy" in row:
        return f"accuracy {row[f'{part}_accuracy']:.2%}"
    return f"absolute error {row[f'{part}_absolute_error']:.4f} deviations"


class History:
    """Writes each row of metrics to `metrics.jsonl` and to TensorBoard, if this process writes at all.

    A run that is resumed writes TensorBoard's files anew from the rows that stand, as it may repeat steps.
    """

    def __init__(self, folder: epath.Path, writes: bool) -> None:
        self._folder = folder
        self._summaries: Any = None
        if writes:
            events = str(folder / "tensorboard")
            if tf.io.gfile.exists(events):
                tf.io.gfile.rmtree(events)
            self._summaries = tf.summary.create_file_writer(events)
            for row in workdir.read_metrics(folder):
                self._summarise(row)

    def __enter__(self) -> History:
        return self

    def __exit__(self, *error: object) -> None:
        if self._summaries is not None:
            self._summaries.close()

    def add(self, row: dict[str, float]) -> None:
        if self._summaries is None:
            return
        workdir.append_metrics(self._folder, row)
        self._summarise(row)

    def _summarise(self, row: dict[str, float]) -> None:
        with self._summaries.as_default(int(row["step"])):
            for name, value in row.items():
                tf.summary.scalar(name, value)
        self._summaries.flush()


class Progress:
    """A line with images, images/s, remaining time and loss, and one line for each evaluation."""

    def __init__(self, config: ml_collections.ConfigDict, step: int, total_steps: int, shown: bool) -> None:
        self._batch_size = config.batch_size
        self._bar = tqdm.tqdm(
            total=total_steps * config.batch_size,
            initial=step * config.batch_size,
            desc=config.model.name,
            unit=" images",
            unit_scale=True,
            disable=not shown,
            dynamic_ncols=True,
        )

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.close()

    def show(self, steps: int, loss: keras.metrics.Metric) -> None:
        self._bar.set_postfix_str(f"loss {float(loss.result()):.3f}", refresh=False)
        self._bar.update(steps * self._batch_size)

    def announce(self, row: dict[str, float]) -> None:
        self._bar.write(
            f"epoch {row['epoch']:g} (step {row['step']}): training loss {row['train_loss']:.4f}, "
            f"{score(row, 'train')}; evaluation loss {row['eval_loss']:.4f}, {score(row, 'eval')}; "
            f"{row['images_per_second']:,.0f} images/s"
        )
