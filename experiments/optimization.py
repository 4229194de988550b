"""Optimizer and learning rate of a recipe, all of Keras' own."""

from __future__ import annotations

import keras
import ml_collections

# Biases, norms and relative-bias tables are not decayed.
NOT_DECAYED = ("bias", "gamma", "beta", "table")


def make_schedule(
    settings: ml_collections.ConfigDict, total_steps: int
) -> keras.optimizers.schedules.LearningRateSchedule:
    """Linear warm-up from 0 to the peak, then cosine decay to the minimum at the last step.

    Args:
        settings: `learning_rate` (peak), `min_learning_rate` and `warmup_steps`.
        total_steps: Steps of the whole run, warm-up included.

    Returns:
        A Keras schedule.

    Raises:
        ValueError: If the warm-up is not shorter than the run.

    Example:
    >>> import ml_collections
    >>> from experiments.optimization import make_schedule
    >>> settings = ml_collections.ConfigDict(
    ...     {"learning_rate": 1e-3, "min_learning_rate": 1e-5, "warmup_steps": 100})
    >>> schedule = make_schedule(settings, total_steps=1000)
    >>> [round(float(schedule(step)), 6) for step in (0, 50, 100, 1000)]
    [0.0, 0.0005, 0.001, 1e-05]
    """
    peak, warmup_steps = settings.learning_rate, settings.warmup_steps
    if not 0 <= warmup_steps < total_steps:
        raise ValueError(
            f"config.optimizer.warmup_steps must be at least 0 and below the run's {total_steps} steps; got "
            f"{warmup_steps}."
        )
    return keras.optimizers.schedules.CosineDecay(
        0.0 if warmup_steps else peak,
        decay_steps=total_steps - warmup_steps,
        alpha=settings.min_learning_rate / peak,
        warmup_target=peak if warmup_steps else None,
        warmup_steps=warmup_steps,
    )


def make_optimizer(
    settings: ml_collections.ConfigDict, model: keras.Model, total_steps: int
) -> keras.optimizers.Optimizer:
    """AdamW, built for the model's trainable variables.

    Weight decay is scaled by the learning rate, as in the paper, and is kept off biases, norms and
    relative-bias tables. Gradients are clipped by the training step, which sees all replicas.

    Args:
        settings: `weight_decay` and the fields of `make_schedule`.
        model: A built model.
        total_steps: Steps of the whole run.

    Returns:
        A built `keras.optimizers.AdamW`.
    """
    optimizer = keras.optimizers.AdamW(make_schedule(settings, total_steps), weight_decay=settings.weight_decay)
    optimizer.exclude_from_weight_decay(
        var_list=[v for v in model.trainable_variables if v.path.rpartition("/")[2] in NOT_DECAYED]
    )
    optimizer.build(model.trainable_variables)
    return optimizer
