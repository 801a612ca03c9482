"""How far an engine that computes in float16 may be from the model in float32.

Formula: tolerance = 2 sqrt(sum over kernels of e^2), of the largest magnitude of an output.
         e is the likely error of one kernel, in multiples of the root mean square of its result: what it states
         (`TensorProgram.error`: the length of its sums, the transforms of a Winograd convolution), or one rounding for
         a kernel that states nothing.
Numerics: errors of different kernels are independent, so squares add up; a network hands a relative error on as it is,
          neither magnified nor damped, which holds on the average where normalization keeps magnitudes alike; the
          largest of many errors is within four standard deviations, and the root mean square of an output is at most
          half of its largest magnitude. Measured: errors of 0.1 to 0.3 of this, because sums and means over positions
          damp independent errors.
Source:  Higham and Mary, A New Approach to Probabilistic Rounding Error Analysis, SIAM J. Sci. Comput. 2019.
"""

from __future__ import annotations

from math import sqrt

from edgec.ir.types import DType
from edgec.kernels.machine import number_format
from edgec.kernels.partial_sums import one_rounding
from edgec.kernels.program import TensorProgram
from edgec.plan.plan import Plan

_DEVIATIONS = 2  # four standard deviations, in halves of the largest magnitude


def tolerance(plan: Plan, programs: dict[int, TensorProgram]) -> float:
    """Of the largest magnitude of an output; 0 for an engine that computes in float32. programs: by kernel's index."""
    half = [programs[i] for i, k in enumerate(plan.kernels) if i in programs and number_format(k) is DType.FLOAT16]
    once = one_rounding(DType.FLOAT16.value)
    return _DEVIATIONS * sqrt(sum((p.error or once) ** 2 for p in half))
