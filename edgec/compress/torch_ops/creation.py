"""Ops that make tensors out of shapes, on torch. Those with constant parameters are constants before they run.

Source: ONNX operator EyeLike.
"""

from __future__ import annotations

import torch

from edgec.compress.torch_ops.rule import DTYPES, Form, Inputs, Tensors
from edgec.ir.graph import Node


def _eye_like(node: Node, x: Inputs) -> Tensors:
    rows, columns = (torch.arange(n, device=x[0].device) for n in x[0].shape)
    return [(columns == rows.reshape(-1, 1) + node.integer("k", 0)).to(DTYPES[node.outputs[0].dtype])]


FORMS: dict[str, Form] = {"EyeLike": Form(_eye_like)}
