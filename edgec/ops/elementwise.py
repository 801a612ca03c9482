"""Element-wise ops and activations: what the compiler knows of them."""

from edgec.ops.spec import Coupling, KernelRole, OpSpec, QuantRole

_P, _SAME = KernelRole.POINTWISE, Coupling.SAME
_COMMUTES = ("Relu",)
_REQUANTIZES = ("Add", "Sub", "Mul")
_FLOAT = (
    "Div", "Max", "Min", "Pow", "Sum", "Mean", "Neg", "Abs", "Sqrt", "Reciprocal", "Exp", "Log", "Erf", "Sign",
    "Floor", "Ceil", "Round", "Sin", "Cos", "Tanh", "Sigmoid", "HardSigmoid", "HardSwish", "LeakyRelu", "PRelu", "Elu",
    "Selu", "Celu", "Gelu", "Mish", "Softplus", "Softsign", "Swish", "ThresholdedRelu",
)

SPECS = (
    *(OpSpec(name, _P, QuantRole.COMMUTES, _SAME) for name in _COMMUTES),
    *(OpSpec(name, _P, QuantRole.REQUANTIZES, _SAME) for name in _REQUANTIZES),
    *(OpSpec(name, _P, QuantRole.FLOAT, _SAME) for name in _FLOAT),
    OpSpec("Clip", _P, QuantRole.COMMUTES, _SAME, side_inputs=frozenset({1, 2})),
)
