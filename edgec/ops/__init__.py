"""The op table: one OpSpec per op, one file per family."""

from edgec.ops import (
    attention,
    control,
    conv,
    creation,
    elementwise,
    indexing,
    logic,
    matmul,
    movement,
    normalization,
    pool,
    quantize,
    recurrent,
    reduce,
    resize,
    signal,
)
from edgec.ops.coupling import Coupling
from edgec.ops.spec import KernelRole, OpSpec, OpTable, QuantRole

table = OpTable()
for _family in (attention, control, conv, creation, elementwise, indexing, logic, matmul, movement, normalization, pool,
                quantize, recurrent, reduce, resize, signal):
    table.add(_family.SPECS, _family.__name__.rpartition(".")[2])

__all__ = ["Coupling", "KernelRole", "OpSpec", "OpTable", "QuantRole", "table"]
