"""The op table: one OpSpec per op, one file per family."""

from edgec.ops import conv, elementwise, matmul, movement, pool
from edgec.ops.spec import Coupling, KernelRole, OpSpec, OpTable, QuantRole

table = OpTable()
for _family in (conv, elementwise, matmul, movement, pool):
    table.add(_family.SPECS)

__all__ = ["Coupling", "KernelRole", "OpSpec", "OpTable", "QuantRole", "table"]
