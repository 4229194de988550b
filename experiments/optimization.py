"""Optimizer and learning rate of a recipe, of Keras' own parts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import ml_collections
from keras import ops

# Biases, norms and relative-bias tables are not decayed.
NOT_DECAYED = ("bias", "gamma", "beta", "table")
DECAYS = ("cosine", "linear", "constant")


class WarmUp(keras.optimizers.schedules.LearningRateSchedule):
    """Linear warm-up from 0, then another schedule from its own beginning.

    Args:
        peak: Learning rate at the end of the warm-up.
        steps: Steps of the warm-up.
        then: The schedule after it.
    """

    def __init__(self, peak: float, steps: int, then: keras.optimizers.schedules.LearningRateSchedule) -> None:
        self.peak, self.steps, self.then = peak, steps, then

    def __call__(self, step: Any) -> Any:
        step = ops.cast(step, "float32")
        rising = self.peak * step / self.steps
        return ops.where(step < self.steps, rising, self.then(ops.maximum(step - self.steps, 0.0)))


def make_schedule(
    settings: ml_collections.ConfigDict, total_steps: int, steps_per_epoch: int
) -> keras.optimizers.schedules.LearningRateSchedule:
    """Linear warm-up from 0 to the peak, then decay to the minimum at the last step.

    Args:
        settings: `learning_rate` (peak), `min_learning_rate`, `decay` (`"cosine"`, `"linear"` or
            `"constant"`), and `warmup_steps` or `warmup_epochs`.
        total_steps: Steps of the whole run, warm-up included.
        steps_per_epoch: Steps of an epoch.

    Returns:
        A Keras schedule.

    Raises:
        ValueError: If the decay is unknown, the warm-up is not shorter than the run, or a constant rate
            has another minimum.

    Example:
    >>> import ml_collections
    >>> from experiments.optimization import make_schedule
    >>> settings = ml_collections.ConfigDict({"learning_rate": 1e-3, "min_learning_rate": 1e-5, "decay": "cosine",
    ...                                       "warmup_steps": 100, "warmup_epochs": 0})
    >>> schedule = make_schedule(settings, total_steps=1000, steps_per_epoch=100)
    >>> [round(float(schedule(step)), 6) for step in (0, 50, 100, 1000)]
    [0.0, 0.0005, 0.001, 1e-05]
    """
    peak, minimum = settings.learning_rate, settings.min_learning_rate
    if settings.decay not in DECAYS:
        raise ValueError(f"config.optimizer.decay must be one of {', '.join(DECAYS)}; got {settings.decay!r}.")
    if minimum > peak:
        raise ValueError(
            f"config.optimizer.min_learning_rate {minimum} is above learning_rate {peak}, which would rise to it; "
            "lower it as well."
        )
    if settings.decay == "constant" and minimum != peak:
        raise ValueError(
            f"config.optimizer.decay is constant, but min_learning_rate {minimum} is not learning_rate {peak}."
        )
    if settings.warmup_steps and settings.warmup_epochs:
        raise ValueError("Set config.optimizer.warmup_steps or config.optimizer.warmup_epochs, and the other to 0.")
    warmup_steps = settings.warmup_steps or settings.warmup_epochs * steps_per_epoch
    if not 0 <= warmup_steps < total_steps:
        raise ValueError(
            f"The warm-up (config.optimizer.warmup_steps, or warmup_epochs) must be shorter than the run's "
            f"{total_steps} steps; got {warmup_steps}."
        )
    schedules = keras.optimizers.schedules
    steps = total_steps - warmup_steps
    if settings.decay == "cosine":
        schedule = schedules.CosineDecay(peak, steps, alpha=minimum / peak)
    else:  # a constant rate is a line as well
        schedule = schedules.PolynomialDecay(peak, steps, minimum)
    return WarmUp(peak, warmup_steps, schedule) if warmup_steps else schedule


class ReducedAdamW(keras.optimizers.AdamW):
    """AdamW for gradients that the training step has summed over all replicas, to clip them by their norm.

    Keras would sum them once more; a test with two replicas compares the moments. On TensorFlow its kernel of Adam does
    in one operation what Keras writes in thirty for each variable.

    Args:
        *args: Arguments of `keras.optimizers.AdamW`.
        factors: On the learning rate, weight decay included, of each variable that it is built for; 1 by default.
        **kwargs: Arguments of `keras.optimizers.AdamW`.
    """

    def __init__(self, *args: Any, factors: Sequence[float] = (), **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._factors = tuple(factors)

    def _apply_weight_decay(self, variables: Any) -> None:
        """Part of `update_step`, which knows the rate."""

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        index = self._get_variable_index(variable)
        rate = ops.cast(learning_rate * (self._factors[index] if self._factors else 1), variable.dtype)
        if self._use_weight_decay(variable):
            self.assign_sub(variable, variable * (rate * self.weight_decay))
        if keras.backend.backend() == "tensorflow":
            self._apply_kernel(gradient, variable, rate, index)
        else:
            super().update_step(gradient, variable, rate)

    def _apply_kernel(self, gradient: Any, variable: Any, rate: Any, index: int) -> None:
        """`keras.optimizers.Adam.update_step` on TensorFlow."""
        import tensorflow as tf

        step = tf.cast(self.iterations + 1, variable.dtype)
        tf.raw_ops.ResourceApplyAdam(
            var=variable.handle,
            m=self._momentums[index].value.handle,
            v=self._velocities[index].value.handle,
            beta1_power=self.beta_1**step,
            beta2_power=self.beta_2**step,
            lr=rate,
            beta1=self.beta_1,
            beta2=self.beta_2,
            epsilon=self.epsilon,
            grad=gradient,
        )

    def _all_reduce_sum_gradients(self, grads_and_vars: Any) -> Any:
        return list(grads_and_vars)


def layer_factors(model: keras.Model, decay: float) -> list[float]:
    """Factors on the learning rate of a CoAtNet's trainable variables, that fall from the head to the stem.

    As timm has them (`timm.optim.param_groups_layer_decay` with the groups of its CoAtNets): the head has 1, the last
    stage `decay`, the one before `decay**2`, ..., the stem the smallest. A norm in front of the pool belongs to the
    last stage.

    Args:
        model: A CoAtNet.
        decay: Above 0 and at most 1.

    Returns:
        A factor for each of `model.trainable_variables`.

    Example:
    >>> import coatnet_tf
    >>> from experiments.optimization import layer_factors
    >>> config = coatnet_tf.make_config("tiny", (1, 1, 1), (8, 16, 32), "CT")
    >>> model = coatnet_tf.CoAtNet(config, input_shape=(32, 32, 3), classes=10)
    >>> sorted(set(layer_factors(model, 0.5)))
    [0.125, 0.25, 0.5, 1.0]
    """
    groups: dict[int, int] = {}  # by variable
    names = ["stem"]  # of the groups
    for layer in model.layers:
        stage, is_block, _ = layer.name.partition("_block")
        if is_block and stage != names[-1]:
            names.append(stage)
        if layer.name == "head_pool":
            names.append("head")
        groups |= {id(variable): len(names) - 1 for variable in layer.trainable_variables}
    return [decay ** (len(names) - 1 - groups[id(variable)]) for variable in model.trainable_variables]


def make_optimizer(
    settings: ml_collections.ConfigDict,
    model: keras.Model,
    schedule: keras.optimizers.schedules.LearningRateSchedule,
    ema_decay: float,
) -> keras.optimizers.Optimizer:
    """AdamW, built for the model's trainable variables.

    Weight decay is scaled by the learning rate, as in the paper, and is kept off biases, norms and
    relative-bias tables. Gradients are clipped by the training step, which sees all replicas.

    Args:
        settings: `weight_decay` and `layer_decay`.
        model: A built model.
        schedule: Learning rate, from `make_schedule`.
        ema_decay: Decay of the moving average of the weights that is evaluated; 0 for none.

    Returns:
        A built Keras optimizer.
    """
    averaging = {"use_ema": True, "ema_momentum": ema_decay} if ema_decay else {}
    factors = () if settings.layer_decay == 1 else layer_factors(model, settings.layer_decay)
    optimizer = ReducedAdamW(schedule, weight_decay=settings.weight_decay, factors=factors, **averaging)
    optimizer.exclude_from_weight_decay(
        var_list=[v for v in model.trainable_variables if v.path.rpartition("/")[2] in NOT_DECAYED]
    )
    optimizer.build(model.trainable_variables)
    return optimizer
