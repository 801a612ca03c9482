def test_targets_lists_all(edgec):
    done = edgec("targets")
    for name in ("rpi4", "jetson-orin-nano, jetson", "cortex-m55", "x86-64-v4", "host"):
        assert any(line.startswith(name) for line in done.out.splitlines()), name


def test_targets_shows_one_with_sources(edgec):
    done = edgec("targets", "rpi4")
    assert "cortex-a72" in done.out
    assert "https://" in done.out


def test_targets_prints_json(edgec):
    assert {t["name"] for t in edgec("targets", "--json").json} >= {"rpi4", "host"}
    assert edgec("targets", "jetson", "--json").json["name"] == "jetson-orin-nano"


def test_targets_refuses_when_the_name_is_unknown(edgec):
    done = edgec("targets", "rpi44")
    assert (done.code, "rpi4" in done.err) == (2, True)
