"""Gathering, scattering, sorting and searching: what the compiler knows of them."""

from edgec.ops import coupling_moves as moves
from edgec.ops.spec import KernelRole, OpSpec, QuantRole

_M, _O, _C, _N = KernelRole.MOVEMENT, KernelRole.OPAQUE, QuantRole.COMMUTES, QuantRole.NONE

SPECS = (
    OpSpec("Gather", _M, _C, moves.GATHER),
    OpSpec("GatherElements", _M, _C),
    OpSpec("GatherND", _M, _C),
    OpSpec("ScatterElements", _O, QuantRole.FLOAT),
    OpSpec("ScatterND", _O, QuantRole.FLOAT),
    OpSpec("TensorScatter", _O, QuantRole.FLOAT),
    OpSpec("OneHot", _O, _N, side_inputs=frozenset({1})),
    OpSpec("TopK", _O, _C, side_inputs=frozenset({1})),
    OpSpec("NonMaxSuppression", _O, QuantRole.FLOAT, side_inputs=frozenset({2, 3, 4}),
           advice="end the model at the boxes and scores that this node reads (onnx.utils.extract_model), and select "
           "boxes in the application, to be without ONNX Runtime there"),
    OpSpec("Compress", _O, _C),
    OpSpec("NonZero", _O, _N),
    OpSpec("Unique", _O, QuantRole.FLOAT),
    OpSpec("Shape", _O, _N),
    OpSpec("Size", _O, _N),
    OpSpec("TfIdfVectorizer", _O, _N),
)
