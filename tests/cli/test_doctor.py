from importlib import util


def test_doctor_finds_what_is_here(edgec):
    findings = {f["what"]: f for f in edgec("doctor", "--json").json}
    assert findings["backend onnxruntime"]["state"] == "ok"
    assert findings["backend tensorrt"]["todo"]
    assert findings["edgec"]["found"].startswith("0.")


def test_doctor_says_what_to_do_when_something_is_missing(edgec, monkeypatch):
    find_spec, which = util.find_spec, "edgec.cli.doctor.shutil.which"
    monkeypatch.setattr("edgec.cli.doctor.util.find_spec", lambda n: None if n == "ziglang" else find_spec(n))
    monkeypatch.setattr(which, lambda name: None)
    done = edgec("doctor")
    assert done.code == 0
    assert "pip install ziglang" in done.out
    assert "apt install qemu-user" in done.out
    assert "missing" in done.out.splitlines()[-1]
