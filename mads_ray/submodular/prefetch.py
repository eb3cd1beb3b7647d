"""The processor's prefetch instruction for numba: it takes a fifth off lazy greedy."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from mads_ray.submodular.jit import jit

_PER_LINE = 32  # uint16 in a cache line


@intrinsic
def _prefetch(_context: Any, array: Any, at: Any) -> Any:
    """Ask for the cache line that holds element `at` of a C-contiguous array."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        view = context.make_array(signature.args[0])(context, builder, args[0])
        pointer = builder.bitcast(builder.gep(view.data, [args[1]]), ir.IntType(8).as_pointer())
        i32 = ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [ir.IntType(8).as_pointer(), i32, i32, i32])
        function = cgutils.get_or_insert_function(  # type: ignore[no-untyped-call]
            builder.module, kind, "llvm.prefetch.p0"
        )
        builder.call(function, [pointer, i32(0), i32(3), i32(1)])  # to read, keep, data
        return context.get_dummy_value()

    return types.void(array, types.intp), generate


@jit
def prefetch_part(i: Any, part: Any, parts: int, neurons_NA: Any) -> None:
    """Rows are re-evaluated in the order of the heap, which memory knows nothing of."""
    width = neurons_NA.shape[1]
    flat = neurons_NA.reshape(-1)
    for a in range(part * width // parts, (part + 1) * width // parts, _PER_LINE):
        _prefetch(flat, i * width + a)  # type: ignore[call-arg]
