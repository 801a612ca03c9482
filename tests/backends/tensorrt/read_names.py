"""Run by tools/tensorrt_bindings inside a wheel's Python: names, enums and parameters of a TensorRT module as JSON.

Arguments: the module's name, and the classes to read, with commas between.
"""

import importlib
import json
import re
import sys


def public(thing):
    return sorted(n for n in dir(thing) if not n.startswith("_") or n == "__init__")


def signature(thing):
    """Parameters of each overload, `=` behind those that have a default. pybind11 writes them into the docstring."""
    overloads = set()
    for line in (getattr(thing, "__doc__", None) or "").splitlines():
        match = re.match(r"(?:\d+\. )?\w+\(self(?::[^,)]*)?(?:, (.*))?\)(?: -> .*)?$", line.strip())
        if not match:
            continue
        inner = re.sub(r"<[^>]*>", "X", match.group(1) or "")
        while re.search(r"\[[^\[\]]*\]", inner):
            inner = re.sub(r"\[[^\[\]]*\]", "", inner)
        parts = [p for p in inner.split(", ") if p]
        overloads.add(", ".join(p.split(":")[0].strip() + ("=" if "=" in p else "") for p in parts))
    return sorted(overloads) if callable(thing) else []


def table(trt, classes):
    rows = {}
    for name in classes:
        thing = getattr(trt, name, None)
        if thing is not None:
            enum = dict(getattr(thing, "__members__", {}))
            rows[name] = {"enum": {k: int(v) for k, v in sorted(enum.items())},
                          "members": {} if enum else {n: signature(getattr(thing, n)) for n in public(thing)}}
    severity = trt.ILogger.Severity.__members__
    rows["ILogger.Severity"] = {"enum": {k: int(v) for k, v in sorted(severity.items())}, "members": {}}
    return {"version": trt.__version__, "classes": rows}


def main():
    trt = importlib.import_module(sys.argv[1])
    answer = {"table": table(trt, sys.argv[2].split(","))}
    try:
        trt.Builder(trt.Logger())
        answer["builder"] = "made"
    except TypeError as error:
        answer["builder"] = str(error)
    print(json.dumps(answer))


if __name__ == "__main__":
    main()
