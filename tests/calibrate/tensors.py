"""Tensors for the tests of calibration: many distributions, and those at the edge of what is allowed."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from edgec.calibrate.grids import Scheme
from edgec.calibrate.histograms import Histogram, count
from edgec.calibrate.ranges import measure
from edgec.ir.types import DType

FLOATS = st.floats(width=32, allow_nan=False, allow_infinity=False)
UNSIGNED = Scheme(DType.UINT8)  # for numbers that are never negative, such as those after ReLU


def arrays(min_samples: int = 1, elements: st.SearchStrategy[float] = FLOATS) -> st.SearchStrategy[np.ndarray]:
    """Finite float32 arrays [samples, h, w]; constants, zeros, subnormal and huge numbers among them."""
    return hnp.arrays(np.float32, hnp.array_shapes(min_dims=3, max_dims=3, min_side=min_samples, max_side=5),
                      elements=elements)


def histogram(array: np.ndarray, bins: int = 2048) -> Histogram:
    """Both passes over one batch."""
    return count(array, measure(array).limit, bins=bins)


def distribution(index: int, size: int = 20_000) -> np.ndarray:
    """One of endlessly many distributions: shape, spread, share of zeros, outliers and sign depend on `index`."""
    rng = np.random.default_rng(index)
    draw = [rng.normal, rng.laplace, rng.logistic, lambda size: rng.standard_t(3, size), lambda size: rng.gamma(
        0.7, size=size), lambda size: rng.uniform(-1, 1, size), lambda size: rng.beta(2, 5, size)][index % 7]
    numbers = draw(size=size) * 10.0 ** rng.uniform(-3, 3) + rng.choice([0.0, 0.3])
    if index % 3 == 0:
        numbers = np.maximum(numbers, 0)
    if index % 5 == 0:
        numbers[rng.integers(0, size, 5)] *= 12
    return numbers.astype(np.float32)
