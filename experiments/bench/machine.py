"""What this machine can do: the rate of a large matrix product, and of moving memory. The roof over every program."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from experiments.bench.process import timed

MATRIX = 2048
"""Rows of the matrix product."""
MOVED = 2**26
"""Numbers (float32) that are read and written to measure memory: 256 MiB each way, more than caches hold."""
TRIES = 5


@dataclass(frozen=True)
class Roof:
    """Measured limits of one device.

    Attributes:
        gflop_per_s: matrix products, in the arithmetic at hand.
        gb_per_s: bytes read and written.
    """

    gflop_per_s: float
    gb_per_s: float

    def seconds(self, flops: float, moved: float) -> float:
        """Least time for so many operations and bytes, whichever takes longer.

        Example:
            >>> Roof(100.0, 10.0).seconds(2e9, 1e9)
            0.1
        """
        return max(flops / (1e9 * self.gflop_per_s), moved / (1e9 * self.gb_per_s))


def matrix_rate(dtype: Any = jnp.float32, size: int = MATRIX) -> float:
    """GFLOP/s of a large matrix product: the best of a few tries."""
    a = jnp.ones((size, size), dtype)
    multiply = jax.jit(jnp.matmul)
    jax.block_until_ready(multiply(a, a))
    # 2 n³ operations; the best try is the least disturbed
    return 2e-9 * size**3 / min(timed(lambda: jax.block_until_ready(multiply(a, a))) for _ in range(TRIES))


def bandwidth(numbers: int = MOVED) -> float:
    """GB/s of reading an array and writing another: the best of a few tries."""
    a = jnp.ones(numbers, jnp.float32)
    add = jax.jit(lambda a: a + 1)
    jax.block_until_ready(add(a))
    # Read once and written once
    return 2e-9 * a.nbytes / min(timed(lambda: jax.block_until_ready(add(a))) for _ in range(TRIES))


def roof(dtype: Any = jnp.float32) -> Roof:
    """Measure this machine now."""
    return Roof(matrix_rate(dtype), bandwidth())
