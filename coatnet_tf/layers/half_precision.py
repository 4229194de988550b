"""What is computed in another way with 16-bit numbers, where passes over memory are what takes the time.

Each function has its plain equal in Keras or in the layer that calls it, and agrees with it to the rounding of its
inputs (tests/coatnet_tf/test_half_precision.py). docs/performance.md has what each of them saves on a TPU.
"""

from __future__ import annotations

from typing import Any

from keras import ops

DTYPES = ("float16", "bfloat16")  # compute dtypes of layers
_SPLIT = 2.0**16 + 1  # of the 24 bits of a float32 the upper 8


def moments(x: Any, axes: Any) -> tuple[Any, Any]:
    """Mean and variance in one pass: from the means of x and of its square.

    Keras takes the mean, then the mean of the squared distances from it. This loses digits where the mean is many times
    the standard deviation, which numbers of 8 or 11 bits do not have either.

    Args:
        x: Numbers of any dtype.
        axes: Those to average over.

    Returns:
        Both in float32, the axes kept with size 1.
    """
    x = ops.cast(x, "float32")
    mean = ops.mean(x, axis=axes, keepdims=True)
    variance = ops.mean(ops.square(x), axis=axes, keepdims=True) - ops.square(mean)
    return mean, ops.maximum(variance, 0.0)


def attend(query: Any, key: Any, value: Any, bias: Any) -> Any:
    """`softmax(q k^T + bias) v` with a gradient of its own, which keeps the products q k^T and no probabilities.

    The sums of the softmax come from a column of ones beside v, and the gradient of the logits z for probabilities p
    is `p * (dO v^T - rowsum(dO * O))` (Dao et al., arXiv:2205.14135, appendix B): neither needs a pass of its own.
    Softmax and bias are in float32.

    Args:
        query: `[batch, positions, heads, head_size]`, scaled.
        key: Of the same shape, as is `value`.
        value: What is averaged.
        bias: `[1, heads, positions, positions]` in float32.

    Returns:
        `[batch, heads, positions, head_size]` in the dtype of the query.
    """

    @ops.custom_gradient
    def function(query: Any, key: Any, value: Any, bias: Any) -> Any:
        products = ops.einsum("bihd,bjhd->bhij", query, key)
        logits = ops.cast(products, "float32") + bias
        highest = ops.max(logits, axis=-1, keepdims=True)
        shares = ops.cast(ops.exp(logits - highest), query.dtype)
        beside = ops.concatenate([value, ops.ones_like(value[..., :1])], axis=-1)
        sums = ops.cast(ops.einsum("bhij,bjhd->bhid", shares, beside), "float32")
        total = sums[..., -1:]
        output = ops.cast(sums[..., :-1] / total, query.dtype)
        log_total = highest + ops.log(total)

        def gradient(*upstream: Any) -> tuple[Any, ...]:
            (of_output,) = upstream
            probabilities = ops.exp(ops.cast(products, "float32") + bias - log_total)
            of_value = ops.einsum("bhij,bhid->bjhd", ops.cast(probabilities, query.dtype), of_output)
            mean = ops.sum(ops.cast(of_output, "float32") * ops.cast(output, "float32"), axis=-1, keepdims=True)
            # In two parts (Veltkamp's), so that the difference is rounded and not what it is of; compilers leave out
            # casts to and fro.
            large = mean * _SPLIT
            high = large - (large - mean)
            parts = [ops.cast(part, query.dtype) for part in (high, mean - high)]
            taken = ops.concatenate([value, -ops.ones_like(value[..., :2])], axis=-1)
            distances = ops.einsum("bhid,bjhd->bhij", ops.concatenate([of_output, *parts], axis=-1), taken)
            of_logits = ops.cast(probabilities * ops.cast(distances, "float32"), query.dtype)
            return (
                ops.einsum("bhij,bjhd->bihd", of_logits, key),
                ops.einsum("bhij,bihd->bjhd", of_logits, query),
                of_value,
                ops.sum(ops.cast(of_logits, "float32"), axis=0, keepdims=True),
            )

        return output, gradient

    return function(query, key, value, bias)
