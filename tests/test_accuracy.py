"""What low precision may cost the real models; `tools/accuracy` prints the same as a table, beside ONNX Runtime's."""

from __future__ import annotations

import pytest

from tests.int8_accuracy import DATA, Row, Subject, subjects, table

pytestmark = pytest.mark.skipif(not DATA.is_dir(), reason=f"no real models in {DATA.name}")


@pytest.mark.slow
@pytest.mark.parametrize("subject", subjects(), ids=str)
def test_engine_in_low_precision_keeps_the_accuracy(subject: Subject):
    row = subject.measure(False)
    assert row.ok, table([row])


def test_table_marks_what_loses_too_much():
    good = Row("a", "int8", "top1", "%", 100, 90.0, 89.95, 0.1, -0.2, 0.3, 0.5, (9, 10), (27, 100), 3.0)
    bad = Row("b", "int8", "si-snr", "dB", 9, 12.0, 11.0, 0.1, repair="adaround",
              notes=("ONNX Runtime's quantization fails: no", "adaround: left away"))
    text = table([good, bad]).splitlines()
    assert "+0.05" in text[1]
    assert text[1].split("9/10")[1].split()[:2] == ["0.270", "ok"]
    assert "TOO MUCH" in text[2]
    assert "adaround" in text[2]
    assert text[3].startswith("b: ONNX Runtime's")
    assert text[4] == "b: adaround: left away"
    assert (good.ok, bad.ok) == (True, False)
    assert good.to_json()["drop"] == pytest.approx(0.05)
