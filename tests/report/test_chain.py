"""The page of a chain of checkpoints."""

import re

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
    assert "50 %" in page


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


def test_page_tells_first_what_was_won_and_lost_and_what_comes_next():
    scores = [{"metric": "top1", "unit": "%", "value": v, "samples": 100} for v in (91.5, 88.0)]
    times = [{"target": "rpi4", "cycles": c, "seconds": c / 1e9} for c in (4e6, 1e6)]
    links = [link("model", macs=3e6, accuracy=scores[0], predicted=times[0]),
             link("prune", macs=1e6, bytes=3990, packed=1500, accuracy=scores[1], predicted=times[1])]
    page = render_chain({"links": links, "facts": {"stage": "prune"}}, "net")
    first = re.sub(r"<[^>]+>", " ", page[page.index("<h1>"):page.index("<h2>")])
    for part in ("multiply-adds 3.00 times smaller", "compressed file 2.00 times smaller",
                 "4.00 times as fast on rpi4, expected", "3.50 % of top1, on 100 samples", "edgec recover prune.edgec",
                 "edgec build prune.edgec"):
        assert part in first
    assert "weights 1.00" not in first
    unmeasured = render_chain({"links": [link("model"), link("prune")], "facts": {"stage": "prune"}}, "net")
    assert "not measured" in unmeasured
    assert "http" not in page


def test_time_that_was_not_measured_is_a_dash_or_its_reason():
    html = chain_table([link("model"), link("prune", why="only <emulated>")])
    first, second = html.split("<tr>")[2:4]
    assert first.endswith('<td class="n">-</td></tr>')
    assert "only &lt;emulated&gt;" in second


def test_plots_stand_in_numbers_too():
    points = [point("whole", 4e6, None), point("result", 2e6, 12.0)]
    assert "<td>the result</td><td class=\"n\">2</td><td class=\"n\">12.00</td>" in front({"front": points})
    rows = [{"group": g, "size": 8, "removed": 4, "sqnr_db": v, "top1": None} for g, v in (("a", 20.0), ("b", 5.0))]
    html = curves({"curves": rows})
    assert html.index("<code>b</code>") < html.index("<code>a</code>")
    assert "50 %: 5.0 dB" in html


def test_no_row_of_a_long_table_is_left_out():
    groups = [{"name": f"g{i}", "before": 8, "after": 4} for i in range(250)]
    page = render_chain({"links": [link("model"), link("prune")], "facts": {
        "stage": "prune", "groups": groups, "blocked": []}}, "net")
    assert all(f"<code>g{i}</code>" in page for i in range(250))
    assert "210 more" in page


def test_curves_have_a_line_for_each_group():
    rows = [{"group": g, "size": 8, "removed": r, "sqnr_db": None if not r else 20.0 - r, "top1": None}
            for g in ("a", "b") for r in (0, 4, 6)]
    html = curves({"curves": rows})
    assert html.count("<polyline") == 2
    assert html.count("<circle") == 4
    assert curves({"curves": rows[:1]}) == ""
    assert curves({}) == ""
