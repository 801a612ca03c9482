"""What the report says of an engine that a board will build."""

from __future__ import annotations

import json

from edgec.driver import build
from edgec.report.board_engine import board_engines
from edgec.target import configure, load_target
from tests.models import Builder
from tests.onnx_files import save


def test_page_says_for_which_board_and_what_leaves_the_dla(tmp_path):
    b = Builder()
    x = b("Relu", b.conv(b.input("x", 1, 16, 9, 7), 16))
    model = save(b.output(b("Erf", x)), tmp_path / "net.onnx")
    target = configure(load_target("jetson-agx-orin"), jetpack="5.1", dla=0, gpu_fallback=True)
    folder = build(model, target, tmp_path / "net", samples=1)
    stages = json.loads((folder / "report.json").read_text())["stages"]
    page = board_engines(stages)
    assert "TensorRT 8.5.2 (JetPack 5.1.6, L4T 35.6.4, CUDA 11.4, Python 3.8)" in page
    assert "TensorRT 8.5 and later, below 11.0" in page
    assert "float16 in opset 17, types by builder flags" in page
    assert "the DLA has no Erf" in page
    assert "dla.layer" in page
    assert "Remarks on speed" not in page
    assert page in (folder / "report.html").read_text()
    assert board_engines([{"backend": "tvm", "meta": {}}]) == ""
