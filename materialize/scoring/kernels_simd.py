"""The vector instructions of the scorer: select a row of lanes, and add rows of lanes.

Written as LLVM vectors as wide as a row, because a loop over lanes is not reliably turned into registers that
stay. LLVM cuts them into what the processor has: four AVX-512 registers, eight AVX2, sixteen NEON.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils as _cgutils
from numba.extending import intrinsic as _intrinsic

intrinsic: Any = _intrinsic  # its annotations lose the signature of what it decorates
cgutils: Any = _cgutils
LANES = 64
"""Users that are scored together."""
_ALIGNMENT = 64
_I16, _I32, _I64 = ir.IntType(16), ir.IntType(32), ir.IntType(64)
_FLOATS, _CODES = ir.VectorType(ir.FloatType(), LANES), ir.VectorType(_I16, LANES)


def aligned(shape: tuple[int, ...], dtype: type[np.generic]) -> np.ndarray[Any, Any]:
    """An uninitialized array that starts on a cache line, which the instructions here rely on."""
    size = math.prod(shape) * np.dtype(dtype).itemsize
    raw = np.empty(size + _ALIGNMENT, np.uint8)
    start = -raw.ctypes.data % _ALIGNMENT
    return raw[start : start + size].view(dtype).reshape(shape)


def _row(context: Any, builder: Any, array_type: Any, array: Any, index: Any, vector: Any) -> Any:
    """Pointer to row ``index`` of a C-ordered array whose rows are one vector."""
    data = context.make_array(array_type)(context, builder, array).data
    return builder.gep(builder.bitcast(data, vector.as_pointer()), [index])


def _splat(builder: Any, value: Any, vector: Any) -> Any:
    single = builder.insert_element(ir.Constant(vector, ir.Undefined), value, ir.Constant(_I32, 0))
    return builder.shuffle_vector(
        single, ir.Constant(vector, ir.Undefined), ir.Constant(ir.VectorType(_I32, vector.count), None)
    )


def _below(context: Any, builder: Any, codes_type: Any, codes: Any, row: Any, threshold: Any) -> Any:
    """``codes[row] < threshold``, a bit for each lane."""
    code = builder.load(_row(context, builder, codes_type, codes, row, _CODES), align=_ALIGNMENT)
    return builder.icmp_signed("<", code, _splat(builder, threshold, _CODES))


@intrinsic
def select_row(typing_context, table, at, codes, row, threshold, left, right):  # type: ignore[no-untyped-def]
    """``table[at] = where(codes[row] < threshold, table[left], table[right])``; all rows LANES wide.

    ``table`` float32, ``codes`` int16, both from :func:`aligned`; numbers int64, ``threshold`` int16.
    """

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        table, at, codes, row, threshold, left, right = arguments
        load = {
            index: builder.load(
                _row(context, builder, signature.args[0], table, index, _FLOATS), align=_ALIGNMENT
            )
            for index in (left, right)
        }
        goes_left = _below(context, builder, signature.args[2], codes, row, threshold)
        chosen = builder.select(goes_left, load[left], load[right])
        builder.store(chosen, _row(context, builder, signature.args[0], table, at, _FLOATS), align=_ALIGNMENT)
        return context.get_dummy_value()

    return types.void(table, types.int64, codes, types.int64, types.int16, types.int64, types.int64), generate


@intrinsic
def select_value(typing_context, table, at, codes, row, threshold, left, right):  # type: ignore[no-untyped-def]
    """``table[at] = where(codes[row] < threshold, left, right)``: :func:`select_row` between two float32."""

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        table, at, codes, row, threshold, left, right = arguments
        goes_left = _below(context, builder, signature.args[2], codes, row, threshold)
        chosen = builder.select(goes_left, _splat(builder, left, _FLOATS), _splat(builder, right, _FLOATS))
        builder.store(chosen, _row(context, builder, signature.args[0], table, at, _FLOATS), align=_ALIGNMENT)
        return context.get_dummy_value()

    return types.void(
        table, types.int64, codes, types.int64, types.int16, types.float32, types.float32
    ), generate


@intrinsic
def transpose(typing_context, source, starts, shift, out, row, column):  # type: ignore[no-untyped-def]
    """``out[row + i, column + j] = source[starts[j] + shift + i]`` for i and j from 0 to 7, in registers.

    ``source`` int16, ``starts`` int64[8], ``out`` int16 of two dimensions; numbers int64. Nothing has to be aligned.
    """
    side = ir.VectorType(_I16, 8)

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        source, starts, shift, out, row, column = arguments
        data, at = (
            context.make_array(signature.args[n])(context, builder, array).data
            for n, array in enumerate((source, starts))
        )
        table = context.make_array(signature.args[3])(context, builder, out)
        width = builder.extract_value(table.shape, 1)
        vectors = []
        for j in range(8):
            start = builder.add(builder.load(builder.gep(at, [ir.Constant(_I64, j)])), shift)
            place = builder.bitcast(builder.gep(data, [start]), side.as_pointer())
            vectors.append(builder.load(place, align=2))
        while len(vectors) > 1:  # side by side: 16, 32, 64 codes
            size = 2 * vectors[0].type.count
            both = ir.Constant(ir.VectorType(_I32, size), list(range(size)))
            vectors = [
                builder.shuffle_vector(a, b, both) for a, b in zip(vectors[::2], vectors[1::2], strict=True)
            ]
        for i in range(8):
            column_of = ir.Constant(ir.VectorType(_I32, 8), list(range(i, 64, 8)))
            codes = builder.shuffle_vector(vectors[0], vectors[0], column_of)
            place = builder.add(builder.mul(builder.add(row, ir.Constant(_I64, i)), width), column)
            place = builder.bitcast(builder.gep(table.data, [place]), side.as_pointer())
            builder.store(codes, place, align=2)
        return context.get_dummy_value()

    return types.void(source, starts, types.int64, out, types.int64, types.int64), generate


@intrinsic
def add_rows(typing_context, score, i, table, root, begin, end):  # type: ignore[no-untyped-def]
    """``score[i] += table[root[e]]`` for e from ``begin`` to ``end``, one after the other; rows LANES wide.

    ``score`` and ``table`` float32 from :func:`aligned`, ``root`` int32, numbers int64.
    """

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        score, i, table, root, begin, end = arguments
        place = _row(context, builder, signature.args[0], score, i, _FLOATS)
        total = cgutils.alloca_once_value(builder, builder.load(place, align=_ALIGNMENT))
        roots = context.make_array(signature.args[3])(context, builder, root).data
        with cgutils.for_range_slice(builder, begin, end, ir.Constant(_I64, 1), inc=True) as (e, _):
            index = builder.sext(builder.load(builder.gep(roots, [e])), _I64)
            row = _row(context, builder, signature.args[2], table, index, _FLOATS)
            builder.store(builder.fadd(builder.load(total), builder.load(row, align=_ALIGNMENT)), total)
        builder.store(builder.load(total), place, align=_ALIGNMENT)
        return context.get_dummy_value()

    return types.void(score, types.int64, table, root, types.int64, types.int64), generate


@intrinsic
def lanes_above(typing_context, score, i, bound):  # type: ignore[no-untyped-def]
    """uint64 whose bit b says whether ``score[i, b] > bound[b]``.

    ``score`` float32 from :func:`aligned`, ``bound`` float32[LANES] from it as well; ``i`` int64.
    """

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        score, i, bound = arguments
        rows = [
            builder.load(_row(context, builder, kind, array, index, _FLOATS), align=_ALIGNMENT)
            for kind, array, index in (
                (signature.args[0], score, i),
                (signature.args[2], bound, ir.Constant(_I64, 0)),
            )
        ]
        return builder.bitcast(builder.fcmp_ordered(">", *rows), _I64)

    return types.uint64(score, types.int64, bound), generate


@intrinsic
def lowest_bit(typing_context, bits):  # type: ignore[no-untyped-def]
    """Position of the lowest bit that is set, int64; ``bits`` uint64 is not 0."""

    def generate(_context, builder, _signature, arguments):  # type: ignore[no-untyped-def]
        return builder.cttz(arguments[0], ir.Constant(ir.IntType(1), 1))

    return types.int64(types.uint64), generate


@intrinsic
def count_above(typing_context, score, step, bound, count):  # type: ignore[no-untyped-def]
    """``count[b]`` = how many of ``score[::step, b]`` are above ``bound[b]``, for all lanes.

    ``score`` float32, ``bound`` float32[LANES], ``count`` int32[LANES], all from :func:`aligned`; ``step`` int64.
    """
    counts_type = ir.VectorType(_I32, LANES)

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        score, step, bound, count = arguments
        zero = ir.Constant(_I64, 0)
        limit = builder.load(
            _row(context, builder, signature.args[2], bound, zero, _FLOATS), align=_ALIGNMENT
        )
        total = cgutils.alloca_once_value(builder, ir.Constant(counts_type, None))
        items = builder.extract_value(context.make_array(signature.args[0])(context, builder, score).shape, 0)
        with cgutils.for_range_slice(builder, zero, items, step, inc=True) as (i, _):
            row = builder.load(_row(context, builder, signature.args[0], score, i, _FLOATS), align=_ALIGNMENT)
            above = builder.zext(builder.fcmp_ordered(">", row, limit), counts_type)
            builder.store(builder.add(builder.load(total), above), total)
        place = _row(context, builder, signature.args[3], count, zero, counts_type)
        builder.store(builder.load(total), place, align=_ALIGNMENT)
        return context.get_dummy_value()

    return types.void(score, types.int64, bound, count), generate


@intrinsic
def float_of(typing_context, bits):  # type: ignore[no-untyped-def]
    """The float32 with these bits; ``bits`` uint32."""

    def generate(_context, builder, _signature, arguments):  # type: ignore[no-untyped-def]
        return builder.bitcast(arguments[0], ir.FloatType())

    return types.float32(types.uint32), generate


@intrinsic
def bits_of(typing_context, value):  # type: ignore[no-untyped-def]
    """The bits of a float32: uint32."""

    def generate(_context, builder, _signature, arguments):  # type: ignore[no-untyped-def]
        return builder.bitcast(arguments[0], _I32)

    return types.uint32(types.float32), generate
