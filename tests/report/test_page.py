"""The page of a bundle: what it says first, and that it holds with any content."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from typing import Any

import pytest

from edgec.report.page import render
from tests.report.test_quantization import facts as low_precision

EVIL = "<script>alert(1)</script>&\"'"
VOID = ("meta", "br")


class Nesting(HTMLParser):
    """Fails where an element ends that did not begin last; collects the elements and their attributes."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def kernel(index: int, backend: str = "tvm", name: str = "k", text: str = "no kernel for it") -> dict[str, Any]:
    reason = [{"node": f"{name}{index}", "rule": "tvm.x", "text": text, "source": ""}] if backend != "tvm" else []
    return {"name": f"{name}{index}", "ops": ["Conv"], "source": "", "stage": 0, "backend": backend, "reason": reason,
            "algorithm": "direct", "macs": 1000, "parameter_bytes": 64, "input_bytes": 64, "output_bytes": 64,
            "outputs": ["float32[1,2]"]}


def report(kernels: list[dict[str, Any]], **changes: Any) -> dict[str, Any]:
    size = {"nodes": len(kernels), "ops": {}, "parameters": 10, "parameter_bytes": 40, "macs": 1000,
            "activation_bytes": 64}
    return {
        "name": "net", "target": {"name": "rpi4", "kind": "board", "backends": ["tvm", "onnxruntime"]}, "summary": "",
        "model": {"before": size, "after": size, "kind": "onnx"}, "passes": [], "kernels": kernels,
        "stages": [{"stage": 0, "backend": "tvm", "kernels": len(kernels), "nodes": len(kernels), "file_bytes": 2048,
                    "files": {"libnet.a": "the engine"}, "meta": {"arena_bytes": 128, "arena_lower_bound": 64}}],
        "times": {"mhz": 1500, "rows": [
            {"kernel": k["name"], "stage": 0, "algorithm": "direct", "cycles": 3000, "roof": 1500, "bound": "memory"}
            for k in kernels]},
        "golden": {"ran": True, "emulated": False, "note": "", "reason": "", "hint": "", "samples": 4,
                   "reference": "ONNX Runtime on the original model", "outputs": [
                       {"name": "y", "error": 1e-6, "tolerance": 1e-4, "magnitude": 1.0, "sample": 0, "ok": True}]},
        "options": {"precision": "float32", "toolchain": "", "inputs": {}}, "quantization": None, **changes}


def parsed(page: str) -> Nesting:
    reader = Nesting()
    reader.feed(page)
    assert reader.open == []
    return reader


def first_screen(page: str) -> str:
    """What stands before the first section, as text."""
    return re.sub(r"<[^>]+>", " ", page[page.index("<h1>"):page.index("<h2")])


def test_first_screen_tells_verdict_time_size_loss_fallbacks_and_next_steps():
    rows = [kernel(0), kernel(1), kernel(2, "onnxruntime", text="no kernel for Det"),
            *(kernel(i, "onnxruntime", text="shape depends on data") for i in (3, 4))]
    text = first_screen(render(report(rows)))
    for part in ("passed", "1.0 % of the tolerance", "10 us", "expected, without what runs elsewhere", "2 KiB", "128 B",
                 "2.00 x the lower bound",
                 "Nothing: numbers differ by rounding alone", "3 of 5 kernels not on tvm",
                 "shape depends on data (2); no kernel for Det (1)", "edgec bench BUNDLE"):
        assert part in text
    assert "edgec verify" not in text
    assert "without what" not in first_screen(render(report([kernel(0)])))


def test_first_screen_tells_what_int8_lost_and_whether_that_is_allowed():
    budget = {"met": True, "max_drop": 0.5, "unit": "%", "reason": "all in int8", "trials": [[0, 0.0]],
              "float_kernels": []}
    facts = low_precision(budget=budget, findings=[{"rule": "r", "text": "few samples", "advice": "give more"}])
    text = first_screen(render(report([kernel(0)], quantization=facts)))
    assert "0.00 % of top1, between -1.00 % and 1.00 % with 95 % certainty, on 500 samples; 0.50 % are allowed" in text
    assert "give more" in text
    missed = {**budget, "met": False, "reason": "the time is up"}
    page = render(report([kernel(0)], quantization=low_precision(budget=missed)))
    assert '<span class="bad">0.50 % are allowed</span>' in page
    assert "the budget of accuracy was missed: the time is up" in first_screen(page)
    unmeasured = first_screen(render(report([kernel(0)], quantization=low_precision(
        accuracy=None, outputs={"a": 31.5, "b": None, "c": 22.0}))))
    assert "Not measured" in unmeasured
    assert "22.0 dB" in unmeasured


@pytest.mark.parametrize(("golden", "kind", "said", "unsaid"), [
    ({"ran": False, "reason": "no such processor", "hint": "use the device"}, "board",
     "edgec verify BUNDLE --device ssh://USER@BOARD", "passed"),
    ({"emulated": True}, "board", "emulated", "not here"),
    ({"emulated": True, "note": "ONNX Runtime in its place"}, "board", "not the engine itself", "not here"),
    ({"ran": False, "reason": "a microcontroller", "hint": "link it"}, "mcu", "into a firmware", "edgec run"),
])
def test_first_screen_tells_how_far_the_check_went(golden, kind, said, unsaid):
    whole = report([kernel(0)])
    whole["golden"].update(golden)
    whole["target"]["kind"] = kind
    text = first_screen(render(whole))
    assert said in text
    assert unsaid not in text


@pytest.mark.parametrize("name", ["k" * 400, "层/Ω/ñ\u202e", EVIL, ""], ids=["long", "scripts", "markup", "empty"])
def test_page_nests_and_escapes_when_names_are_silly(name):
    rows = [kernel(i, "onnxruntime" if i % 2 else "tvm", name, text=name) for i in range(4)]
    whole = report(rows, name=name, summary=name, options={"precision": "float32", "values": {name: name}},
                   quantization=low_precision(kernels=[], note=name))
    whole["golden"]["outputs"][0]["name"] = name
    page = render(whole)
    parsed(page)
    assert "<script" not in page


def test_page_folds_all_but_the_first_of_300_kernels():
    page = render(report([kernel(i) for i in range(300)]))
    parsed(page)
    assert page.count("<code>k299</code>") == 2  # in the tables of kernels and of times
    kernels = page[page.index("<h2>Kernels</h2>"):page.index("<h2>Time by kernel</h2>")]
    assert "k39<" in kernels[:kernels.index("<details>")]
    assert "k40<" not in kernels[:kernels.index("<details>")]
    assert "<summary>260 more</summary>" in kernels


def test_page_without_kernels_says_none():
    whole = report([], stages=[])
    whole["golden"]["outputs"] = []
    page = render(whole)
    parsed(page)
    assert page.count("<p>none</p>") >= 3
    assert "All 0 kernels" not in page


def test_page_folds_passes_that_found_nothing():
    passes = [{"name": n, "matched": m, "applied": a, "refused": r} for n, m, a, r in [
        ("fold_pad", 2, 1, []), ("fuse_gelu", 0, 0, []), ("fuse_silu", 0, 0, []), ("fuse_silu", 0, 0, []),
        ("convert_gemm", 0, 0, [{"node": "n", "rule": "r", "text": "why", "source": ""}])]]
    section = render(report([kernel(0)], passes=passes)).split("<h2>Passes</h2>")[1]
    shown, folded = section.split("<details>")[:2]
    assert "fold_pad" in shown
    assert "convert_gemm" in shown
    assert "fuse_gelu" not in shown
    assert "2 passes found nothing to do" in folded
    assert folded.count("fuse_silu") == 1


def test_options_that_are_not_given_take_no_rows():
    section = render(report([kernel(0)])).split("<h2>Options in force</h2>")[1]
    assert section.count("<tr>") == 2
    assert "Not given: <code>inputs</code>, <code>toolchain</code>" in section


def test_every_table_and_plot_has_a_name_and_nothing_comes_from_outside():
    page = render(report([kernel(0), kernel(1, "onnxruntime")], quantization=low_precision()))
    for tag, attributes in parsed(page).seen:
        if attributes.get("role") in ("region", "img"):
            assert attributes["aria-label"]
        if tag == "th":
            assert attributes["scope"] == "col"
        assert "src" not in attributes
        assert (attributes.get("href") or "#").startswith("#")
    assert not re.search(r"@import|url\(|https?:", page)
    assert page.count("<table>") == page.count('role="region"') - page.count("<svg")
