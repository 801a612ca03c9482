from edgec.cli.console import Steps, warn_of_weak_checks


def lines(text):
    return [line.split("  ")[-1].strip() for line in text.splitlines()]


def test_a_stage_ends_with_its_result_and_not_with_its_last_step(capsys):
    with Steps() as steps:
        steps("compile", None, "8 kernels")
        steps("compile", 0.5, "conv_3")
        steps("compile", None, "21560 bytes")
        steps("calibrate", 0.1, "32 samples")
        steps("calibrate", 1.0, "64 samples")
        steps("calibrate", None, "saving")
        steps("write", None, "out")
    assert lines(capsys.readouterr().err) == ["8 kernels", "64 samples", "out"]


def test_a_stage_that_fails_has_no_result(capsys):
    try:
        with Steps() as steps:
            steps("train", 1.0, "epoch 3 of 3")
            raise ValueError
    except ValueError:
        assert lines(capsys.readouterr().err) == ["stopped here"]


def test_weak_checks_are_told_with_what_to_do(capsys):
    warn_of_weak_checks([{"name": "a", "magnitude": 2.0, "tolerance": 0.1, "weak": False}])
    assert capsys.readouterr().err == ""
    warn_of_weak_checks([{"name": "b", "magnitude": 1.0, "tolerance": 0.5, "weak": True}])
    said = capsys.readouterr().err
    assert "b (largest magnitude 1, tolerance 0.5)" in said
    assert "--golden" in said
