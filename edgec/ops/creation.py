"""Ops that make tensors out of parameters or chance: what the compiler knows of them."""

from edgec.ops.spec import KernelRole, OpSpec, QuantRole

_O, _N = KernelRole.OPAQUE, QuantRole.NONE
_RANDOM = ("RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Bernoulli", "Multinomial")

SPECS = (
    OpSpec("Constant", _O, _N),
    OpSpec("ConstantOfShape", _O, _N, side_inputs=frozenset({0})),
    OpSpec("EyeLike", _O, _N),
    OpSpec("Range", _O, _N, side_inputs=frozenset({0, 1, 2})),
    *(OpSpec(name, _O, _N, pure=False) for name in _RANDOM),
)
