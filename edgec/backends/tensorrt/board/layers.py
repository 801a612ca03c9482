"""What the finished engine is made of: its inspector and the builder's log, read for what left the fast paths."""

import re
from typing import Any, Dict, List

_ELIGIBLE = "(Sparsity) Layers eligible for sparse math:"
_PICKED = "(Sparsity) TRT inference plan picked sparse implementation for layers:"
# What TensorRT logs about a layer that leaves the DLA. Source: logs of 8.0 to 10.3 in NVIDIA/TensorRT issue 2318,
# onnx/tensorflow-onnx issue 1632, NVIDIA-AI-IOT/jetson_dla_tutorial issue 3, ultralytics/ultralytics issue 23488
_OFF_DLA = tuple(map(re.compile, (
    r"Layer '(?P<name>.+)' \((?P<kind>[A-Z_]+)\): Unsupported on DLA",
    r"Default DLA is enabled but layer (?P<name>.+) is not supported on DLA",
    r"Switching (?!this)(?P<name>.+) device type to GPU",
    r"^(?:[A-Z_]+: )?(?P<name>\S+): .*Switching this layer's device type to GPU")))
_MOVES = ("Reformat", "NoOp", "Quantize", "Dequantize", "Shuffle")


def read_layers(information: Dict[str, Any]) -> List[Dict[str, Any]]:
    """Rows of name, type, tactic, inputs and outputs (their types and formats) from the inspector's JSON.

    Versions differ: the type and format of a tensor are one text (`Format/Datatype`) or two; names of ONNX nodes are in
    the layer's name, or from 8.6 on also in `Metadata`. Without detailed verbosity a layer is just its name.
    """
    rows = []
    for layer in information.get("Layers", []):
        if not isinstance(layer, dict):
            rows.append({"name": str(layer), "type": "", "tactic": "", "nodes": [], "inputs": [], "outputs": []})
            continue
        name = str(layer.get("Name", ""))
        metadata = str(layer.get("Metadata", ""))
        rows.append({
            "name": name, "type": str(layer.get("LayerType", "")), "tactic": str(layer.get("TacticName", "")),
            "nodes": sorted({*re.findall(r"\[ONNX Layer: ([^\]]+)\]", metadata), *re.split(r" \+ | \|\| ", name)}),
            "inputs": [_format(t) for t in layer.get("Inputs", [])],
            "outputs": [_format(t) for t in layer.get("Outputs", [])]})
    return rows


def _format(tensor: Any) -> str:
    if not isinstance(tensor, dict):
        return str(tensor)
    text = tensor.get("Format/Datatype")
    return str(text) if text else "{} {}".format(tensor.get("Datatype", ""), tensor.get("Format", "")).strip()


def findings(rows: List[Dict[str, Any]], log: List[str], description: Dict[str, Any], int8: bool) -> Dict[str, Any]:
    """What did not go as planned. int8_lost: layers that should be int8 and are not; sparse: eligible and picked, as
    TensorRT says; off_dla: layers that moved to the GPU; moves: layers that only convert.
    """
    by_node: Dict[str, Dict[str, Any]] = {}
    for row in rows:
        for node in row["nodes"]:
            by_node.setdefault(node, row)
    lost, unseen = [], []  # type: List[Dict[str, Any]], List[str]
    for name in description["int8_layers"] if int8 else []:
        row = by_node.get(name, {})
        if not row:
            unseen.append(name)
        elif not any("int8" in text.lower() for text in row["inputs"]):
            lost.append({"node": name, "layer": row["name"], "inputs": row["inputs"]})
    return {
        "layers": len(rows), "int8_lost": lost, "int8_unseen": unseen,
        "sparse_wanted": description["sparse_layers"], "sparse_eligible": _listed(log, _ELIGIBLE),
        "sparse_picked": _listed(log, _PICKED), "off_dla": _off_dla(log) if description["dla"] is not None else [],
        "moves": [row["name"] for row in rows if any(row["type"].startswith(kind) for kind in _MOVES)]}


def warnings(found: Dict[str, Any]) -> List[str]:
    """The findings that a person should read."""
    texts = []
    if found["int8_lost"]:
        texts.append("{} layers that were quantized do not run in int8: {}".format(
            len(found["int8_lost"]), _some([row["node"] for row in found["int8_lost"]])))
    if found["sparse_wanted"] and not found["sparse_picked"]:
        texts.append("{} layers have 2:4 weights and TensorRT picked a sparse kernel for none of them".format(
            len(found["sparse_wanted"])))
    if found["off_dla"]:
        texts.append("{} layers run on the GPU instead of the DLA: {}".format(
            len(found["off_dla"]), _some(found["off_dla"])))
    return texts


def _some(names: List[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _listed(log: List[str], title: str) -> List[str]:
    for line in log:
        _, found, names = line.partition(title)
        if found:
            return [n.strip() for n in names.split(",") if n.strip()]
    return []


def _off_dla(log: List[str]) -> List[str]:
    """Layers that moved, each once. Constants are none: they are weights of the layers around them."""
    found = []
    for line in log:
        match = next(filter(None, (pattern.search(line) for pattern in _OFF_DLA)), None)
        name = match.group("name") if match else ""
        if name and name not in found and not name.endswith("[Constant]") and match is not None \
                and match.groupdict().get("kind") != "CONSTANT":
            found.append(name)
    return found
