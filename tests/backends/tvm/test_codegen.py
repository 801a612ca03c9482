import struct

import numpy as np
import pytest
from edgec.kernels.program import TensorProgram
from tvm import s_tir, te, tirx

from edgec.backends.tvm.codegen import emit, lower
from edgec.backends.tvm.elf import undefined_symbols
from edgec.backends.tvm.phases import STACK_BYTES, Scratch
from edgec.errors import InternalError
from edgec.target import load_target
from tests.backends.tvm.programs import BASELINE, RPI4, SHAPE, pointwise

MACHINES = {"x86-64-v3": 62, "rpi4": 183, "cortex-m4": 40}


def add(name="x"):
    return pointwise([SHAPE, SHAPE], lambda i, j, a, b: a[i, j] + b[i, j], name=name)


def object_of(*funcs, target=BASELINE, exclusive=None):
    programs = [TensorProgram(f, ()) for f in funcs]
    labels = [f"kernel {i}" for i in range(len(funcs))]
    lowered = lower(programs, labels, target)
    return emit(lowered, labels, exclusive or [True] * len(funcs), target, "demo_kernel")


def two_stages(rows, columns):
    x = te.placeholder((rows, columns), "float32", name="x")
    doubled = te.compute((rows, columns), lambda i, j: x[i, j] * 2.0, name="doubled")
    return te.create_prim_func([x, te.compute((rows, columns), lambda i, j: doubled[j, i] + doubled[i, j], name="y")])


@pytest.mark.parametrize("target", MACHINES)
def test_emit_gives_object_of_the_targets_machine(target):
    code = object_of(add(), target=load_target(target))
    assert struct.unpack_from("<H", code.data, 18)[0] == MACHINES[target]
    assert code.undefined == ()


def test_functions_are_shared_when_they_differ_in_names_only():
    other = pointwise([SHAPE, SHAPE], lambda i, j, a, b: a[i, j] - b[i, j])
    code = object_of(add("x"), other, add("completely_different").with_attr("global_symbol", "elsewhere"))
    assert code.symbols == (("demo_kernel0",), ("demo_kernel1",), ("demo_kernel0",))
    assert code.functions == 2


def test_function_is_compiled_twice_when_one_call_works_in_place():
    code = object_of(add(), add(), add(), exclusive=[True, False, True])
    assert code.symbols == (("demo_kernel0",), ("demo_kernel1",), ("demo_kernel0",))


def test_bytes_are_equal_when_compiled_again():
    first, second = (object_of(add("a"), two_stages(64, 64), target=RPI4) for _ in range(2))
    assert first.data == second.data


def test_large_temporary_becomes_workspace_and_small_one_stays():
    side = int((STACK_BYTES / 4) ** 0.5)
    lowered = lower([TensorProgram(two_stages(n, n), ()) for n in (side, side + 1)], ["small", "large"], BASELINE)
    assert [low.scratch for low in lowered] == [(), (Scratch(4 * (side + 1) ** 2),)]
    assert not [s for s in object_of(two_stages(99, 99)).undefined if "Alloc" in s or "TVM" in s]


def test_libm_functions_are_listed():
    code = object_of(pointwise([SHAPE], lambda i, j, a: tirx.erf(a[i, j]) + tirx.exp(a[i, j])))
    assert code.undefined == ("erff", "expf") == tuple(undefined_symbols(code.data))


def test_emit_names_kernel_when_it_needs_a_foreign_symbol():
    foreign = pointwise([SHAPE], lambda i, j, a: tirx.call_extern("float32", "launch_missiles", a[i, j]))
    with pytest.raises(InternalError, match=r"launch_missiles") as error:
        object_of(add(), foreign)
    assert error.value.where == "kernel 1"


def test_lower_names_kernel_when_tvm_fails():
    n = te.var("n")
    x = te.placeholder((n,), "float32", name="x")
    temporary = te.compute((n,), lambda i: x[i] + 1.0, name="t")
    total = te.compute((n,), lambda i: temporary[i] * temporary[n - 1 - i], name="y")
    with pytest.raises(InternalError, match="cannot lower") as error:
        object_of(te.create_prim_func([x, total]))
    assert error.value.where == "kernel 0"


def test_function_with_float16_and_int8_needs_no_runtime():
    half = pointwise([SHAPE, SHAPE], lambda i, j, a, b: a[i, j] * b[i, j], dtype="float16")
    product = pointwise([SHAPE, SHAPE], lambda i, j, a, b: a[i, j] * b[i, j], dtype="int8")
    for target in (BASELINE, RPI4):
        assert object_of(half, product, target=target).undefined == ()


def test_plain_loop_is_vectorized_by_llvm():
    words = np.frombuffer(object_of(add(), target=RPI4).data.ljust(1 << 16, b"\0")[:1 << 14], "<u4")
    assert np.any((words & 0xFFE0FC00) == 0x4E20D400)  # FADD Vd.4S, Vn.4S, Vm.4S


def test_extremes_of_vectors_are_one_instruction_on_aarch64():
    """fmax and fmin have fixed bits beside their registers: 0x4e20f400 and 0x4ea0f400; fcmgt has 0x6ea0e400."""
    def clip(i, j, x):
        low = tirx.Select(x[i, j] < tirx.const(0, "float32"), tirx.const(0, "float32"), x[i, j])
        return tirx.Select(low > tirx.const(6, "float32"), tirx.const(6, "float32"), low)

    schedule = s_tir.Schedule(pointwise([(4, 32)], clip, (4, 32)))
    block = schedule.get_sblock("x_out")
    _, vector = schedule.split(schedule.fuse(*schedule.get_loops(block)), [None, 4])
    schedule.vectorize(vector)
    code = np.frombuffer(object_of(schedule.mod["main"], target=RPI4).data, np.uint8)
    words = code[: len(code) // 4 * 4].view("<u4") & 0xFFE0FC00
    assert 0x4E20F400 in words
    assert 0x4EA0F400 in words
    assert 0x6EA0E400 not in words
