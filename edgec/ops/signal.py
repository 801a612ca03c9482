"""Signal processing: what the compiler knows of it."""

from edgec.ops.spec import KernelRole, OpSpec

_O = KernelRole.OPAQUE

SPECS = (
    OpSpec("DFT", _O, side_inputs=frozenset({1, 2})),
    OpSpec("STFT", _O, side_inputs=frozenset({1, 3})),
    *(OpSpec(name, _O, side_inputs=frozenset({0})) for name in ("HannWindow", "HammingWindow", "BlackmanWindow")),
    OpSpec("MelWeightMatrix", _O, side_inputs=frozenset(range(5))),
)
