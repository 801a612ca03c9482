"""Names within an expression become scalars in local memory, which LLVM turns into registers.

TVM's simplifier substitutes what a Let or a Bind names and follows every use, so its time is exponential in the number
of names. It never looks through a load, and LLVM promotes the scalars before it vectorizes.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tvm import s_tir, tirx
from tvm.ir import Call, Range, TensorLoad
from tvm.ir.prim import expr as prim

_PAIRS = (prim.BinaryOpExpr, prim.CmpExpr, prim.LogicalExpr)


def flatten(func: Any) -> Any:
    """The same PrimFunc with every Let of a stored value as a store to a local scalar.

    Raises TypeError for a Let in a branch of `if_then_else`: its value may be computed only there.
    """
    scalars: list[Any] = []
    body = _statement(func.body, scalars)
    return func.with_body(tirx.SeqStmt([*map(tirx.AllocBuffer, scalars), body]) if scalars else body)


def widen_regions(func: Any) -> Any:
    """The same PrimFunc; a block whose indices depend on a Let declares that it reads those buffers as a whole.

    `te.create_prim_func` states such regions in terms of the name, which is unknown outside the expression.
    """
    return func.with_body(_widen(func.body))


def _widen(stmt: Any) -> Any:
    if isinstance(stmt, tirx.SeqStmt):
        return tirx.SeqStmt([_widen(s) for s in stmt.seq])
    if isinstance(stmt, tirx.For):
        return tirx.For(stmt.loop_var, stmt.min, stmt.extent, stmt.kind, _widen(stmt.body), stmt.thread_binding,
                        stmt.annotations, stmt.step)
    if isinstance(stmt, s_tir.SBlockRealize):
        return s_tir.SBlockRealize(stmt.iter_values, stmt.predicate, _widen(stmt.block))
    if isinstance(stmt, s_tir.SBlock):
        reads = stmt.reads
        if isinstance(stmt.body, tirx.BufferStore) and any(isinstance(e, prim.Let) for e in walk(stmt.body.value)):
            reads = _whole(reads)
        return s_tir.SBlock(stmt.iter_vars, reads, stmt.writes, stmt.name_hint, _widen(stmt.body), stmt.init,
                            stmt.alloc_buffers, stmt.match_buffers, stmt.annotations)
    return stmt


def children(e: Any) -> list[Any]:
    """The direct parts of an expression."""
    if isinstance(e, prim.Let):
        return [e.value, e.body]
    if isinstance(e, (prim.Not, prim.BitwiseNot)):
        return [e.a]
    if isinstance(e, _PAIRS):
        return [e.a, e.b]
    if isinstance(e, prim.Cast):
        return [e.value]
    if isinstance(e, prim.Select):
        return [e.condition, e.true_value, e.false_value]
    if isinstance(e, TensorLoad):
        return list(e.indices)
    return list(e.args) if isinstance(e, Call) else []


def walk(e: Any) -> Iterator[Any]:
    """The expression and all its parts."""
    stack = [e]
    while stack:
        top = stack.pop()
        yield top
        stack.extend(children(top))


def _statement(stmt: Any, scalars: list[Any]) -> Any:
    if isinstance(stmt, tirx.BufferStore):
        return _store(stmt, scalars)
    if isinstance(stmt, tirx.SeqStmt):
        return tirx.SeqStmt([_statement(s, scalars) for s in stmt.seq])
    if isinstance(stmt, tirx.For):
        if int(stmt.kind) == tirx.ForKind.VECTORIZED:
            return _vectorized(stmt, scalars)
        own = [] if int(stmt.kind) == tirx.ForKind.PARALLEL else scalars  # threads must not share a scalar
        body = _statement(stmt.body, own)
        if own is not scalars and own:
            body = tirx.SeqStmt([*map(tirx.AllocBuffer, own), body])
        return tirx.For(stmt.loop_var, stmt.min, stmt.extent, stmt.kind, body, stmt.thread_binding, stmt.annotations,
                        stmt.step)
    if isinstance(stmt, tirx.IfThenElse):
        other = None if stmt.else_case is None else _statement(stmt.else_case, scalars)
        return tirx.IfThenElse(stmt.condition, _statement(stmt.then_case, scalars), other)
    if isinstance(stmt, s_tir.SBlockRealize):
        return s_tir.SBlockRealize(stmt.iter_values, stmt.predicate, _block(stmt.block))
    return stmt


def _block(block: Any) -> Any:
    scalars: list[Any] = []
    body = _statement(block.body, scalars)
    init = None if block.init is None else _statement(block.init, scalars)
    reads = _whole(block.reads) if scalars else block.reads  # a region may depend on what is a scalar now
    return s_tir.SBlock(block.iter_vars, reads, block.writes, block.name_hint, body, init,
                        [*block.alloc_buffers, *scalars], block.match_buffers, block.annotations)


def _vectorized(loop: Any, scalars: list[Any]) -> Any:
    """One vectorized loop per name: TVM's vectorizer would let all lanes share one scalar."""
    body = loop.body
    if isinstance(body, s_tir.SBlockRealize):
        return _vectorized_block(loop, body)
    stores = list(body.seq) if isinstance(body, tirx.SeqStmt) else [body]
    if not all(isinstance(s, tirx.BufferStore) for s in stores):
        return tirx.For(loop.loop_var, loop.min, loop.extent, tirx.ForKind.SERIAL, _statement(body, scalars))
    hoist = _Hoist((loop.extent, loop.loop_var))
    parts = []
    for store in stores:
        value = hoist.visit(store.value)
        parts += [*hoist.stores, tirx.BufferStore(store.buffer, value, store.indices)]
        hoist.stores = []
    if not hoist.scalars:
        return loop
    scalars.extend(hoist.scalars)
    return tirx.SeqStmt(_fission(loop, parts, {}))


def _vectorized_block(loop: Any, realize: Any) -> Any:
    block = realize.block
    if not isinstance(block.body, tirx.BufferStore) or block.init is not None:
        return loop
    hoist = _Hoist((loop.extent, loop.loop_var))
    value = hoist.visit(block.body.value)
    if not hoist.stores:
        return loop
    stores = [*hoist.stores, tirx.BufferStore(block.body.buffer, value, block.body.indices)]
    where = dict(zip((v.var for v in block.iter_vars), realize.iter_values, strict=True))
    body = tirx.SeqStmt(_fission(loop, stores, where))
    return s_tir.SBlockRealize([], True, s_tir.SBlock([], _whole(block.reads), _whole(block.writes), block.name_hint,
                                                      body, None, hoist.scalars))


def _whole(regions: Any) -> list[Any]:
    return [tirx.BufferRegion(r.source, [Range(0, d) for d in r.source.shape]) for r in regions]


def _fission(loop: Any, stores: list[Any], where: dict[Any, Any]) -> list[Any]:
    """A copy of `loop` around each store. where: what variables stand for."""
    loops = []
    for store in stores:
        rename = _Hoist((1, 0))
        lane = tirx.Var(loop.loop_var.name, loop.loop_var.ty)
        rename.loads = {loop.loop_var: lane}
        rename.loads.update({v: rename.visit(e) for v, e in where.items()})
        body = tirx.BufferStore(store.buffer, rename.visit(store.value), [rename.visit(i) for i in store.indices])
        loops.append(tirx.For(lane, loop.min, loop.extent, loop.kind, body))
    return loops


def _store(store: Any, scalars: list[Any]) -> Any:
    hoist = _Hoist((1, 0))
    value = hoist.visit(store.value)
    if not hoist.stores:
        return store
    scalars.extend(hoist.scalars)
    return tirx.SeqStmt([*hoist.stores, tirx.BufferStore(store.buffer, value, store.indices)])


class _Hoist:
    """Takes the Lets out of one expression, innermost first. place: (lanes, lane) of the buffers that hold them."""

    def __init__(self, place: tuple[Any, Any]) -> None:
        self.place = place
        self.stores: list[Any] = []
        self.scalars: list[Any] = []
        self.loads: dict[Any, Any] = {}

    def visit(self, e: Any) -> Any:
        if isinstance(e, tirx.Var):
            return self.loads.get(e, e)
        if isinstance(e, prim.Let):
            value = self.visit(e.value)
            if str(e.var.ty) == "bool":  # a flag in memory is a byte, and a vector of flags is none
                self.loads[e.var] = value
                return self.visit(e.body)
            lanes, lane = self.place
            scalar = tirx.decl_buffer((lanes,), str(e.var.ty), f"t{len(self.scalars)}", scope="local")
            self.stores.append(tirx.BufferStore(scalar, value, [lane]))
            self.scalars.append(scalar)
            self.loads[e.var] = tirx.BufferLoad(scalar, [lane])
            return self.visit(e.body)
        if isinstance(e, (prim.Not, prim.BitwiseNot)):
            return type(e)(self.visit(e.a))
        if isinstance(e, _PAIRS):
            return type(e)(self.visit(e.a), self.visit(e.b))
        if isinstance(e, prim.Cast):
            return prim.Cast(e.ty, self.visit(e.value))
        if isinstance(e, prim.Select):
            return prim.Select(self.visit(e.condition), self.visit(e.true_value), self.visit(e.false_value))
        if isinstance(e, TensorLoad):
            return tirx.BufferLoad(e.source, [self.visit(i) for i in e.indices])
        if isinstance(e, Call):
            return self._call(e)
        return e

    def _call(self, e: Any) -> Any:
        if getattr(e.op, "name", "") == "prim.if_then_else":
            parts = [self.visit(e.args[0]), *(self._branch(a) for a in e.args[1:])]
            return Call(e.op, parts, e.attrs, e.ty_args, ret_ty=e.ty)
        return Call(e.op, [self.visit(a) for a in e.args], e.attrs, e.ty_args, ret_ty=e.ty)

    def _branch(self, e: Any) -> Any:
        inner = _Hoist(self.place)
        inner.loads = dict(self.loads)
        value = inner.visit(e)
        if inner.stores:
            raise TypeError("a branch of if_then_else binds names")
        return value
