"""Ops as differentiable functions of torch tensors, one file per family, with the file names of edgec/ops."""

from __future__ import annotations

from edgec.compress.torch_ops import (
    attention,
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
)
from edgec.compress.torch_ops.rule import DTYPES, Form, Reason
from edgec.ir.graph import Graph, Node

FAMILIES = (attention, conv, creation, elementwise, indexing, logic, matmul, movement, normalization, pool, quantize,
            recurrent, reduce, resize)
FORMS: dict[str, Form] = {name: form for family in FAMILIES for name, form in family.FORMS.items()}


def find(node: Node) -> Form | None:
    """The form of a node's op, None if torch has none."""
    return FORMS.get(node.op) if node.domain == "" else None


def refuse(node: Node) -> Reason | None:
    """(rule, text) if torch cannot run this node, None if it can.

    Rules: `torch.no_form` unknown op, or one without a gradient; `torch.dtype` element type; `torch.dynamic_shape` a
    shape depends on data; `torch.quant` a grid that torch cannot round to; and those of the families.
    """
    form = find(node)
    if form is None or any(isinstance(a, Graph) for a in node.attributes.values()):
        return "torch.no_form", f"{node.domain + '.' * bool(node.domain)}{node.op} has no differentiable form"
    for value in (*node.input_values, *node.outputs):
        if value.dtype not in DTYPES:
            return "torch.dtype", f"{value.name} has element type {value.dtype.name.lower()}"
        if not value.type.is_static:
            return "torch.dynamic_shape", f"the shape of {value.name} depends on data"
        if value.quant is not None and (reason := quantize.why_no_grid(value.quant)) is not None:
            return reason
    return form.refuse(node)
