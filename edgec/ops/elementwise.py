"""Element-wise arithmetic and activations: what the compiler knows of them."""

from edgec.ops import coupling
from edgec.ops.spec import KernelRole, OpSpec, QuantRole

_P, _SAME = KernelRole.POINTWISE, coupling.SAME
_REQUANTIZES = (  # of one input: a table of 256 entries in int8
    "Sub", "Sigmoid", "Tanh", "HardSigmoid", "HardSwish", "LeakyRelu", "PRelu", "Elu", "Selu", "Celu", "Gelu", "Mish",
    "Softplus", "Softsign", "Swish", "ThresholdedRelu", "Neg", "Abs",
)
_FLOAT = (
    "Div", "Pow", "Mod", "Sqrt", "Reciprocal", "Exp", "Log", "Erf", "Sign", "Floor", "Ceil", "Round", "Shrink",
    "Sin", "Cos", "Tan", "Asin", "Acos", "Atan", "Sinh", "Cosh", "Asinh", "Acosh", "Atanh",
)

SPECS = (
    OpSpec("Relu", _P, QuantRole.COMMUTES, _SAME),
    OpSpec("Clip", _P, QuantRole.COMMUTES, _SAME, side_inputs=frozenset({1, 2})),
    *(OpSpec(name, _P, QuantRole.REQUANTIZES, _SAME, commutative=True) for name in ("Add", "Mul", "Sum", "Mean")),
    *(OpSpec(name, _P, QuantRole.UNIFIES, _SAME, commutative=True) for name in ("Max", "Min")),
    *(OpSpec(name, _P, QuantRole.REQUANTIZES, _SAME) for name in _REQUANTIZES),
    *(OpSpec(name, _P, QuantRole.FLOAT, _SAME) for name in _FLOAT),
)
