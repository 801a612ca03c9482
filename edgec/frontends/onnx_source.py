"""Where a node of an ONNX file stands in the user's own model."""

from __future__ import annotations

import ast
import re

import onnx

_FRAME = re.compile(
    r'File "([^"]+)", line (\d+)'
)  # torch.onnx, dynamo=True: pkg.torch.onnx.stack_trace, innermost last
_SCRIPT_FRAME = re.compile(r"(?:^|\n)\s*(\S+\.py)\((\d+)\): ")  # torch.onnx, dynamo=False: doc_string, innermost first
_LIBRARY = re.compile(r"[\\/](?:torch|torchvision|timm|onnxscript)[\\/]|[\\/]python3[^\\/]*[\\/]")


def source_of(node: onnx.NodeProto) -> str:
    """`file.py:12 (layer1.0.conv1)` if the exporter recorded it, else what there is of it, else the node's name."""
    metadata = {p.key: p.value for p in node.metadata_props}
    frames = _FRAME.findall(metadata.get("pkg.torch.onnx.stack_trace", ""))
    if not frames:
        frames = list(reversed(_SCRIPT_FRAME.findall(node.doc_string)))
    own = [f for f in frames if not _LIBRARY.search(f[0])] or frames
    line = f"{own[-1][0]}:{own[-1][1]}" if own else ""
    module = _module_path(metadata.get("pkg.torch.onnx.name_scopes", ""))
    if line and module:
        return f"{line} ({module})"
    return line or module or node.name


def _module_path(scopes: str) -> str:
    """The dotted path of the module, from `['', 'layer1', 'layer1.conv1', 'conv2d']`, whose last is the op."""
    try:
        names = ast.literal_eval(scopes) if scopes else []
    except (ValueError, SyntaxError):
        return ""
    names = [n for n in names if isinstance(n, str)]
    return names[-2] if len(names) > 1 else ""
