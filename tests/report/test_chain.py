"""The page of a chain of checkpoints."""

from edgec.report.chain import chain_table, curves, front, render_chain


def link(stage, **facts):
    return {"stage": stage, "file": f"{stage}.edgec", "macs": 1e6, "weights": 1000, "zeros": 0.25, "bytes": 4000,
            "packed": 3000, "accuracy": None, "predicted": None, "measured": None, "why": "", **facts}


def point(kind, cost, noise_db, top1=None):
    return {"kind": kind, "cost": cost, "macs": cost, "noise": 0.1, "sqnr_db": noise_db, "top1": top1}


def test_names_from_models_are_escaped():
    record = {"links": [link("model", file="<b>.onnx"), link("prune", why="<i>no</i>")], "facts": {
        "stage": "prune", "groups": [{"name": "<w>", "before": 8, "after": 4}],
        "blocked": [{"node": "<n>", "channels": 3, "reason": "<r>"}]}}
    page = render_chain(record, "<t>")
    for raw in ("<b>.onnx", "<i>no", "<w>", "<n>", "<r>", "<t>"):
        assert raw not in page
    assert "&lt;w&gt;" in page
    assert "50%" in page


def test_links_show_what_is_known_of_each():
    html = chain_table([
        link("model", accuracy={"metric": "top1", "unit": "%", "value": 91.5, "samples": 100}),
        link("prune", predicted={"target": "rpi4", "cycles": 1e6, "seconds": 0.002},
             measured={"target": "host", "seconds": 3e-4}),
        link("recover", predicted={"target": "host", "cycles": 2e6, "seconds": None})])
    assert "91.50 %" in html
    assert "100 samples" in html
    assert "2 ms" in html
    assert "300 us" in html
    assert "2 M cycles" in html


def test_the_front_joins_what_nothing_else_beats():
    points = [point("whole", 4e6, None), point("cost", 3e6, 30.0), point("cost", 3.5e6, 20.0), point("local", 2e6, 5.0),
              point("result", 2e6, 12.0)]
    html = front({"front": points, "cost": "cycles"})
    line = html.split('<polyline points="')[1].split('"')[0]
    assert len(line.split()) == 3  # result, 30 dB, whole
    assert html.count("<circle") == 5
    assert html.index('class="other"') < html.index('class="chosen"')
    assert "cycles" in html
    assert "SQNR" in html
    assert "top1" in front({"front": [point("whole", 1.0, None, 90.0), point("result", 0.5, 3.0, 80.0)]})
    assert front({}) == ""


def test_curves_have_a_line_for_each_group():
    rows = [{"group": g, "size": 8, "removed": r, "sqnr_db": None if not r else 20.0 - r, "top1": None}
            for g in ("a", "b") for r in (0, 4, 6)]
    html = curves({"curves": rows})
    assert html.count("<polyline") == 2
    assert html.count("<circle") == 4
    assert curves({"curves": rows[:1]}) == ""
    assert curves({}) == ""
