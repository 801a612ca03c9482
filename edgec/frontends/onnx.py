"""Read an ONNX model: a static Graph at the graph's opset, and the same model for ONNX Runtime as the reference."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
from google.protobuf.message import EncodeError

from edgec.errors import UserError
from edgec.frontends import onnx_file
from edgec.frontends.onnx_bind import bind, declared_types
from edgec.frontends.onnx_graph import GraphReader
from edgec.frontends.onnx_quant import fold_quantization
from edgec.frontends.spec import InputSpec
from edgec.ir.graph import OPSET, Graph


def read_onnx(
    source: bytes | onnx.ModelProto,
    specs: Mapping[str, InputSpec],
    values: Mapping[str, np.ndarray],
    *,
    folder: Path | None = None,
    where: str = "the ONNX model",
) -> tuple[Graph, bytes]:
    """The graph of an ONNX model with bound inputs, and the bound model as ONNX Runtime reads it.

    Every value of the graph has a type; quantize/dequantize pairs have become Quants; an If whose condition is known is
    gone. `folder` is where external data may lie. `source` is not changed.

    Raises UserError: the file is damaged or malformed, does not fit `specs` or `values`, or leaves dimensions open.
    Raises Unsupported: ops or types that edgec does not read, all of them at once.
    """
    if isinstance(source, onnx.ModelProto):
        copy = onnx.ModelProto()
        copy.CopyFrom(source)
        model = onnx_file.prepare(copy, folder, where)
    else:
        model = onnx_file.parse(source, folder, where)
    stated = [*model.graph.value_info, *model.graph.output]
    stated = [onnx.ValueInfoProto.FromString(v.SerializeToString()) for v in stated]
    symbols = bind(model, specs, values, where)
    onnx_file.separate_outputs(model.graph)
    try:
        original = model.SerializeToString(deterministic=True)
    except (EncodeError, ValueError) as error:
        raise UserError(
            "the model has more than 2 GiB of weights",
            where=where,
            expected="at most 2 GiB",
            hint="store the weights as float16, or split the model",
        ) from error
    version = next((o.version for o in model.opset_import if o.domain == ""), OPSET)
    graph = GraphReader(version, declared_types(stated, symbols), where).read(model.graph)
    fold_quantization(graph)
    return graph, original
