"""Softmax along the last axis: each row is read twice, once for its largest number and once for the exponentials.

Computes: y[i, j] = e[i, j] / sum_k e[i, k] with e[i, j] = exp(x[i, j] - max_k x[i, k]), then the kernel's pointwise
          nodes.
Layouts:  everything plain, all leading axes as rows.
Applies when: float32 or float16, the axis is the last one.
Numerics: float32 inside. `rows.PARTS` vectors of partial sums; the sum's reciprocal multiplies. NaN in a row makes the
          row NaN.
Source:   ONNX operator Softmax, opset 13.
"""

from __future__ import annotations

from edgec.kernels import epilogue
from edgec.kernels.emit import Expr, Writer, broadcast, cast, lanes, load, local, parallel, store, vectorized, write
from edgec.kernels.epilogue import Epilogue, Lower, geometry, inlined
from edgec.kernels.machine import known_machine, machine
from edgec.kernels.program import Input, Output, TensorProgram
from edgec.kernels.rows import Row, plus
from tvm import tirx

from edgec.plan.layout import Demand
from edgec.plan.plan import Kernel
from edgec.target import Target

ALGORITHM = "softmax"


def refuse(kernel: Kernel, target: Target) -> str | None:
    """Why this kernel does not apply, None if it does."""
    node = kernel.anchor
    if machine(target, kernel) is None:
        return "the core has no vectors of 4 floats"
    if node is None or node.op != "Softmax":
        return "the anchor is not a Softmax"
    rank = len(node.outputs[0].shape)
    if node.integer("axis", -1) % max(1, rank) != rank - 1:
        return "the axis is not the last one"
    return epilogue.refuse(kernel, -1)


def demand(kernel: Kernel, target: Target) -> Demand:
    """Everything plain."""
    return Demand()


def build(kernel: Kernel, target: Target, lower: Lower) -> TensorProgram:
    """The program for a kernel that `refuse` lets pass."""
    cpu, source, result = known_machine(target, kernel), kernel.anchor.operand(0), kernel.outputs[0]
    b, kept = cpu.lanes, result.dtype.value
    rows, length, _, _ = geometry(result.shape, -1)
    vectors = Row(length, b)
    exp = inlined("Exp", lower, b)

    def body(writer: Writer) -> None:
        x = writer.pointer(Input(source), (rows, length), cpu.dtype)
        after = Epilogue(kernel, b, lower, writer, axis=-1)
        alone = len(kernel.nodes) == 1
        y = writer.pointer(Output(result, (source,) if alone else ()), (rows, length), kept)
        after.prologue()

        with parallel(rows) as (row,):
            largest = vectors.start(float("-inf"))

            def see(v: Expr, part: Expr, count: int) -> None:
                vectors.combine(largest, part, cast(load(x, row, lanes(v * b, count)), "float32"), count, tirx.max)

            vectors.each(see)
            top = vectors.across(largest, tirx.max)
            sums, power = vectors.start(0), local(b)

            def raise_(v: Expr, part: Expr, count: int) -> None:
                with vectorized(count) as e:
                    store(power, exp(lambda i: load(x, row, v * b + i).astype("float32") - top)(e), e)
                vectors.combine(sums, part, load(power, lanes(0, count)), count, plus)
                store(y, cast(load(power, lanes(0, count)), kept), row, lanes(v * b, count))

            vectors.each(raise_)
            scale = local(1)
            store(scale, tirx.const(1, "float32") / vectors.across(sums, plus), 0)

            def finish(v: Expr, _part: Expr, count: int) -> None:
                number = local(b, cpu.dtype)
                factor = broadcast(load(scale, 0), count) if count > 1 else load(scale, 0)
                share = cast(load(y, row, lanes(v * b, count)), "float32") * factor
                store(number, cast(share, cpu.dtype), lanes(0, count))
                value = after.finish((row, v, 0, 0), number, 0, count)
                with vectorized(count) as e:
                    store(y, value(e), row, v * b + e)

            vectors.each(finish)

    return write(kernel.name, body, ALGORITHM)
