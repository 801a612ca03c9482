"""What tiles a Winograd convolution is computed by: forms, schedules, what they cost, and the choice among them."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import numpy as np
from edgec.kernels import convolution
from edgec.kernels.convolution import Convolution
from edgec.kernels.machine import Machine, Tile, choose_tile, split_even
from edgec.kernels.window import Window
from edgec.kernels.winograd_transform import Axis, axis, exists, likely_error, mean_error

from edgec.plan.plan import Kernel

TOLERANCE = 1e-4  # of the largest sum that a layer can have: what outputs may differ by in float32
MEAN_TOLERANCE = 0.01  # of the outputs' root mean square: what the error's may be in float16
_OUTPUTS = (1, 2, 3, 4, 6)  # of one tile along an axis
_PRODUCTS = 1.1  # slots of a multiply-add here, with the loads of its operands; 1 in a direct sum
_TRANSFORM = 14  # slots for each vector of transformed inputs and of sums, from beyond the first cache
_TRANSFORM_BY_ELEMENT = 8  # the same in instructions
_ARRIVAL = 30  # slots for each cache line that comes from beyond the second cache: 64 bytes at 13 GB/s and 3 GHz
_GAIN = 0.9  # of a direct sum's cost: what is closer is left to the direct sum, which needs less memory
_CLOSE = 1.05  # a larger tile must be cheaper by this much


@dataclass(frozen=True)
class Schedule:
    """outputs: of one tile, rows x columns; register tile of the products: `tile.columns` tiles x `tile.blocks` output
    blocks; `chunk` tiles at a time, a multiple of `tile.columns`; together: the sums of all output blocks are computed
    before the first is finished, so that inputs beyond the second cache are read once.
    """

    outputs: tuple[int, int]
    tile: Tile
    chunk: int
    together: bool


def gathers(conv: Convolution, block: int) -> bool:
    """True if x is copied first, neighbours as channels."""
    strides = conv.window.stride
    return conv.c < block and strides[0] == strides[1] > 1 and block % strides[0] == 0


def gathered(conv: Convolution, array: np.ndarray) -> tuple[Convolution, np.ndarray]:
    """The convolution with stride 1 over s x s neighbours as channels (c, row, column), and its weights.

    Its window is that of the copy of x, whose padding is part of it. With p = s * q - o the padding of x, 0 <= o < s,
    row i of the copy holds rows s * (i - q) ... of x, and tap r of the filter is tap (r + o) // s of neighbour
    (r + o) % s.
    """
    window, s = conv.window, conv.window.stride[0]
    offsets = [-p % s for p in window.pad]
    taps = [-(-(t + o) // s) for t, o in zip(window.taps, offsets, strict=True)]
    spread = np.zeros((conv.k, conv.c, taps[0] * s, taps[1] * s), array.dtype)
    spread[:, :, offsets[0]:offsets[0] + window.taps[0], offsets[1]:offsets[1] + window.taps[1]] = array
    parts = spread.reshape(conv.k, conv.c, taps[0], s, taps[1], s).transpose(0, 1, 3, 5, 2, 4)
    size = Window(window.oh + taps[0] - 1, window.ow + taps[1] - 1, window.oh, window.ow, (taps[0], taps[1]))
    channels = conv.c * s * s
    return (Convolution(conv.n, channels, conv.k, 1, size),
            np.ascontiguousarray(parts.reshape(conv.k, channels, *taps)))


def axes(conv: Convolution, outputs: tuple[int, int]) -> tuple[Axis, Axis]:
    """The algorithms for this many outputs along both axes."""
    window = conv.window
    return axis(outputs[0], window.taps[0], window.stride[0]), axis(outputs[1], window.taps[1], window.stride[1])


def points(conv: Convolution, outputs: tuple[int, int]) -> int:
    """Products of a tile."""
    rows, columns = axes(conv, outputs)
    return rows.size * columns.size


def schedule(cpu: Machine, conv: Convolution, outputs: tuple[int, int]) -> Schedule:
    """The register tile, and the chunk for which the fewest bytes come from beyond the second cache.

    Where the weights stay in it, a chunk takes at most an eighth of it: 64 channels at 56x56 took 0.37 ms with 14
    tiles, 0.43 with 28, 0.54 with 70 on an AVX-512 core with 2 MiB. Else many tiles at a time: 512 channels at 28x28
    took 9.8 ms with 26 tiles block by block, 8.5 together, 6.9 with 49 together.
    """
    total = count_tiles(conv, outputs)
    tile = choose_tile(cpu, 1, total, -(-conv.k // cpu.lanes))
    columns = max(length for _, length in split_even(total, tile.columns))
    tile = Tile(1, columns, tile.blocks, tile.unroll)
    pieces = -(-total // columns)
    if weights_stay(cpu, conv, outputs):
        step = cpu.itemsize * points(conv, outputs) * (conv.c + tile.blocks * cpu.lanes) * columns
        most = max(length for _, length in split_even(pieces, max(1, cpu.l2_bytes // 8 // step)))
        return Schedule(outputs, tile, most * columns, False)
    space = [Schedule(outputs, tile, -(-pieces // count) * columns, together)
             for count in range(1, pieces + 1) for together in (False, True)]
    return min(space, key=lambda s: (traffic(cpu, conv, s), s.chunk))


def count_tiles(conv: Convolution, outputs: tuple[int, int]) -> int:
    """Tiles of one sample."""
    return -(-conv.window.oh // outputs[0]) * -(-conv.window.ow // outputs[1])


def weights_stay(cpu: Machine, conv: Convolution, outputs: tuple[int, int]) -> bool:
    """True if the transformed weights fill at most half of the second cache."""
    return 2 * cpu.itemsize * points(conv, outputs) * conv.c * conv.k <= cpu.l2_bytes


def traffic(cpu: Machine, conv: Convolution, chosen: Schedule) -> int:
    """Bytes between the second cache and what lies beyond it: weights, and workspaces that do not fit into half of it.

    Weights come once, because other layers have used the cache since, and for each chunk if they do not stay.
    """
    part = cpu.itemsize * points(conv, chosen.outputs)  # bytes of one channel of one tile
    chunks = conv.n * -(-count_tiles(conv, chosen.outputs) // chosen.chunk)
    inputs, width = part * conv.c * chosen.chunk, chosen.tile.blocks * cpu.lanes
    arrivals = part * conv.c * conv.k * (1 if weights_stay(cpu, conv, chosen.outputs) else chunks)
    if chosen.together:
        both = inputs + part * conv.k * chosen.chunk
        return arrivals + (2 * both * chunks if 2 * both > cpu.l2_bytes else 0)
    both = inputs + part * width * chosen.chunk
    return arrivals + (inputs * (1 + -(-conv.k // width)) * chunks if 2 * both > cpu.l2_bytes else 0)


def cost(cpu: Machine, conv: Convolution, chosen: Schedule) -> float:
    """Instruction slots (half a cycle where two multiply-adds can start in one) of the whole convolution.

    Where weights are asked for ahead, the products hide their arrival or the other way round. Cores with products by
    element are slower, so that fewer of their slots pass while a line arrives.
    """
    total = count_tiles(conv, chosen.outputs)
    c_blocks, k_blocks = -(-conv.c // cpu.lanes), -(-conv.k // cpu.lanes)
    products = conv.n * -(-total // chosen.tile.columns) * chosen.tile.columns * conv.c * k_blocks
    transforms = conv.n * total * (c_blocks + k_blocks)
    size = points(conv, chosen.outputs)
    work, arrivals = _PRODUCTS * size * products, _ARRIVAL * traffic(cpu, conv, chosen) / 64
    if cpu.by_element:
        return _TRANSFORM_BY_ELEMENT * size * transforms + work + arrivals / 2
    return _TRANSFORM * size * transforms + max(work, arrivals)


def direct_cost(cpu: Machine, conv: Convolution) -> float:
    """Instruction slots of the direct sum, which asks for its weights ahead."""
    taps = conv.window.taps[0] * conv.window.taps[1]
    work = float(taps * conv.n * conv.c * -(-conv.k // cpu.lanes) * conv.window.oh * conv.window.ow)
    arrivals = _ARRIVAL * taps * conv.c * conv.k * cpu.itemsize / 64
    return work + arrivals / 2 if cpu.by_element else max(work, arrivals)


def choices(conv: Convolution, cpu: Machine) -> list[Schedule]:
    """The schedule for each number of outputs that has an algorithm: one output along an axis with one tap."""
    window = conv.window
    sides = [[m for m in _OUTPUTS if (m == 1) == (taps == 1) and exists(m, taps, stride) and m < extent + 2]
             for taps, stride, extent in zip(window.taps, window.stride, (window.oh, window.ow), strict=True)]
    return [schedule(cpu, conv, outputs) for outputs in product(*sides)]


def is_allowed(array: np.ndarray, along: tuple[Axis, Axis], dtype: str) -> bool:
    """True if the layer's likely error is within its tolerance. The bounds of float16 are far above what happens, so
    there the mean square decides.
    """
    if dtype == "float32":
        return likely_error(array, along) <= TOLERANCE
    return mean_error(array, along, dtype) <= MEAN_TOLERANCE


def described(kernel: Kernel, cpu: Machine) -> tuple[Convolution, np.ndarray]:
    """The convolution that is computed by tiles, and its weights."""
    conv, array = convolution.describe(kernel.anchor), convolution.weights(kernel.anchor)
    return gathered(conv, array) if gathers(conv, cpu.lanes) else (conv, array)


def choose(kernel: Kernel, cpu: Machine) -> Schedule | None:
    """The schedule with the fewest products of a tile among those within `_CLOSE` of the cheapest, None if the direct
    sum costs hardly more. Fewer products mean smaller weights and smaller errors. Its likely error is allowed.
    """
    conv, array = described(kernel, cpu)
    limit = _GAIN * direct_cost(cpu, convolution.describe(kernel.anchor))
    found: list[Schedule] = []
    for chosen in sorted(choices(conv, cpu), key=lambda s: cost(cpu, conv, s)):
        if cost(cpu, conv, chosen) > min([limit, *(_CLOSE * cost(cpu, conv, first) for first in found[:1])]):
            break
        if is_allowed(array, axes(conv, chosen.outputs), cpu.dtype):
            found.append(chosen)
    return min(found, key=lambda s: points(conv, s.outputs), default=None)


def allowed(kernel: Kernel, cpu: Machine) -> list[Schedule]:
    """Every number of outputs whose likely error is allowed, with other chunks than the rule's too, cheapest first."""
    conv, array = described(kernel, cpu)
    found: list[Schedule] = []
    for rule in choices(conv, cpu):
        if not is_allowed(array, axes(conv, rule.outputs), cpu.dtype):
            continue
        most = -(-count_tiles(conv, rule.outputs) // rule.tile.columns)
        chunks = {max(1, min(most, round(rule.chunk / rule.tile.columns * part))) for part in (0.5, 1, 2, 4)}
        found += [Schedule(rule.outputs, rule.tile, pieces * rule.tile.columns, together)
                  for pieces in sorted(chunks) for together in (False, True)]
    return sorted(found, key=lambda s: cost(cpu, conv, s))
