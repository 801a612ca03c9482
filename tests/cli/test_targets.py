def test_targets_lists_all(edgec):
    done = edgec("targets")
    for name in ("rpi4", "jetson-orin-nano, jetson", "cortex-m55", "x86-64-v4", "host"):
        assert any(line.startswith(name) for line in done.out.splitlines()), name


def test_targets_shows_one_with_sources(edgec):
    done = edgec("targets", "rpi4")
    assert "cortex-a72" in done.out
    assert "https://" in done.out


def test_targets_shows_what_each_jetpack_has(edgec):
    lines = edgec("targets", "jetson").out.splitlines()
    head = next(i for i, line in enumerate(lines) if line.startswith("JetPack"))
    assert lines[head].split() == ["JetPack", "TensorRT", "CUDA", "Python", "L4T", "container"]
    assert lines[head + 2].split() == ["6.2", "10.3.0", "12.6", "3.10", "36.4", "nvidia/l4t-tensorrt:r10.3.0-devel",
                                       "without", "--jetpack"]
    assert any(line.split()[:5] == ["5.1.6", "8.5.2", "11.4", "3.8", "35.6.4"] for line in lines[head:])
    assert lines[-1].startswith("from https://")
    assert "software." not in "".join(lines)
    assert "JetPack" not in edgec("targets", "rpi4").out


def test_targets_prints_json(edgec):
    assert {t["name"] for t in edgec("targets", "--json").json} >= {"rpi4", "host"}
    assert edgec("targets", "jetson", "--json").json["name"] == "jetson-orin-nano"


def test_targets_refuses_when_the_name_is_unknown(edgec):
    done = edgec("targets", "rpi44")
    assert (done.code, "rpi4" in done.err) == (2, True)
