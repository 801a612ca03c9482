"""How far an engine that computes in float16 may be from the model in float32.

Formula: tolerance = 4 sqrt(sum over kernels of e^2), of the largest magnitude of an output.
         e is the likely error of one kernel, in multiples of the root mean square of its result: what it states
         (`TensorProgram.error`: the length of its sums, the transforms of a Winograd convolution), or one rounding for
         a kernel that states nothing.
Numerics: errors of different kernels are independent, so squares add up; a network hands a relative error on as it is,
          neither magnified nor damped, which holds on the average where normalization keeps magnitudes alike; the
          largest of many outputs is within four standard deviations, and an output's root mean square is below its
          largest magnitude.
Source:  Higham and Mary, A New Approach to Probabilistic Rounding Error Analysis, SIAM J. Sci. Comput. 2019.
"""

from __future__ import annotations

from math import sqrt

from edgec.ir.types import DType
from edgec.kernels.machine import number_format
from edgec.kernels.partial_sums import one_rounding
from edgec.kernels.program import TensorProgram
from edgec.plan.plan import Plan

_DEVIATIONS = 4


def tolerance(plan: Plan, programs: dict[int, TensorProgram]) -> float:
    """Of the largest magnitude of an output; 0 for an engine that computes in float32. programs: by kernel's index."""
    half = [programs[i] for i, k in enumerate(plan.kernels) if i in programs and number_format(k) is DType.FLOAT16]
    once = one_rounding(DType.FLOAT16.value)
    return _DEVIATIONS * sqrt(sum((p.error or once) ** 2 for p in half))
