import json
import re
from dataclasses import asdict

import pytest

from edgec.errors import UserError
from edgec.host import find_cpu
from edgec.target import configure, list_targets, load_target, parse_target

NAMED = [
    "jetson-nano", "jetson-tx2", "jetson-xavier-nx", "jetson-agx-xavier", "jetson-orin-nano", "jetson-orin-nx",
    "jetson-agx-orin", "jetson-thor",
    "rpi-zero-2w", "rpi3", "rpi4", "rpi5", "radxa-orion-o6", "imx8mp", "imx93", "rk3399", "rk3568", "rk3588",
    "x86-64-v3", "x86-64-v4", "host", "cortex-m4", "cortex-m7", "cortex-m33", "cortex-m55", "onnxruntime",
]
SHIPPED = [t for t in list_targets() if t.name != "host"]
GOOD = """
name = "mine"
kind = "board"
summary = "my board"
[[cpu]]
core = "cortex-a53"
arch = "aarch64"
mhz = 1000
source = "me"
[[cpu]]
core = "cortex-a72"
arch = "aarch64"
mhz = 1800
source = { rest = "me", mhz = "other" }
[sources]
me = "measured"
other = "data sheet"
"""


def test_list_targets_has_every_promised_target():
    assert sorted(t.name for t in list_targets()) == sorted(NAMED)


@pytest.mark.parametrize("target", SHIPPED, ids=lambda t: t.name)
def test_shipped_target_states_a_source_for_each_fact(target):
    facts = {f"{table}.{key}" for table, rows in target.facts.items()
             for row in (rows if isinstance(rows, list) else [rows]) for key in row}
    assert facts <= target.sources.keys()
    assert all(re.match(r"https?://\S+", link) for link in target.sources.values())
    json.dumps(asdict(target))


@pytest.mark.parametrize("target", SHIPPED, ids=lambda t: t.name)
def test_shipped_target_fits_its_policy(target):
    assert target.backends[-1] == ("tvm" if target.kind == "mcu" else "onnxruntime")
    assert target.cpu in target.clusters
    assert target.cpu.vector_bits == (
        {"mve": 128}.get(target.cpu.kernel_class, 32) if target.kind == "mcu" else
        {"avx2": 256, "avx512": 512}.get(target.cpu.kernel_class, 128))
    assert (target.qemu_cpu != "") == (target.cpu.arch == "aarch64")
    assert (target.qemu_machine != "") == (target.kind == "mcu")
    assert len(target.triple.split("-")) == (4 if target.kind == "mcu" else 3)


@pytest.mark.parametrize(("name", "kernel_class", "qemu_cpu"), [
    ("rpi3", "neon", "cortex-a53"), ("rpi4", "neon", "cortex-a72"), ("rpi5", "neon_dot", "cortex-a76"),
    ("rk3568", "neon_dot", "cortex-a76"), ("jetson-agx-xavier", "neon_fp16", "a64fx"),
    ("jetson-thor", "i8mm", "max,sve-default-vector-length=16"),
    ("radxa-orion-o6", "i8mm", "max,sve-default-vector-length=16"), ("cortex-m55", "mve", ""),
    ("x86-64-v4", "avx512", ""),
])
def test_kernel_class_and_emulator(name, kernel_class, qemu_cpu):
    target = load_target(name)
    assert (target.cpu.kernel_class, target.qemu_cpu) == (kernel_class, qemu_cpu)


@pytest.mark.parametrize("target", [t for t in SHIPPED if t.cpu.arch != "thumb"], ids=lambda t: t.name)
def test_llvm_knows_the_core(target):
    tvm = pytest.importorskip("tvm")
    known = tvm.get_global_func("target.llvm_get_cpu_archlist")(
        tvm.target.Target({"kind": "llvm", "mtriple": target.triple}))
    assert target.cpu.core in {str(name) for name in known}


def test_jetson_is_the_orin_nano():
    assert load_target("jetson").name == "jetson-orin-nano"


def test_fastest_cluster_is_the_cpu():
    assert load_target("rk3588").cpu.core == "cortex-a76"
    assert [c.core for c in load_target("rk3588").clusters] == ["cortex-a76", "cortex-a55"]


@pytest.mark.parametrize(("name", "near"), [("rpi", "rpi4"), ("RPI4", "rpi4"), ("jetson-orin", "jetson-orin-nano, "),
                                            ("cortex-m", "cortex-m33, cortex-m4, cortex-m55, cortex-m7"),
                                            ("qqqq", "jetson")])
def test_load_target_names_near_ones(name, near):
    with pytest.raises(UserError) as caught:
        load_target(name)
    assert near in caught.value.expected
    assert "edgec targets" in caught.value.hint


def test_load_target_tells_a_file_that_is_not_there(tmp_path):
    with pytest.raises(UserError, match="cannot read the target file") as caught:
        load_target(tmp_path / "mine.toml")
    assert caught.value.where == str(tmp_path / "mine.toml")
    assert caught.value.reason == "No such file or directory"


def test_load_target_reads_a_file_of_the_user(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(GOOD)
    target = load_target(path)
    assert (target.cpu.core, target.cpu.mhz, len(target.clusters)) == ("cortex-a72", 1800, 2)
    assert target.sources["cpu.mhz"] == "measured; data sheet"


@pytest.mark.parametrize(("old", "new", "expected"), [
    ("mhz = 1000", "mhx = 1000", "did you mean 'mhz'"),
    ("mhz = 1000", 'mhz = "1000"', "int"),
    ("mhz = 1000", "mhz = true", "int"),
    ("mhz = 1000", "mhz = -1", "0 to 1e9"),
    ('kind = "board"', 'kind = "bord"', "board"),
    ('name = "mine"\n', "", ""),
    ('core = "cortex-a53"\n', "", ""),
    ("cortex-a53", "cortex-a533", "cortex-a53"),
    ('"aarch64"', '"riscv"', "x86_64, aarch64 or thumb"),
    ('source = "me"', "", "each key"),
    ('source = "me"', 'source = "nobody"', "each key"),
    ('source = "me"', "source = 3", "a name of [sources]"),
    ('source = { rest = "me", mhz', 'source = { rest = "me", mhx', "did you mean 'mhz'"),
    ("[[cpu]]", "[[gpu]]", "dict"),
    ("[sources]", "[gpu]\nsm = 5.3\n[sources]", "str"),
    ("[sources]", "[[", "line"),
    (GOOD, 'name = "a"\nkind = "board"\nsummary = ""', "[[cpu]] or [mcu]"),
    (GOOD, "cpu = [3]\n" + 'name = "a"\nkind = "board"\nsummary = ""', "keys and values"),
], ids=lambda v: v[:30] if isinstance(v, str) else None)
def test_parse_target_says_what_is_wrong(old, new, expected):
    assert old in GOOD
    with pytest.raises(UserError) as caught:
        parse_target(GOOD.replace(old, new), where="mine.toml")
    assert expected in caught.value.expected + caught.value.reason
    assert "mine.toml" in caught.value.where


@pytest.mark.parametrize("make", [lambda p: None, lambda p: p.mkdir(), lambda p: p.write_bytes(b"\xff" * 9),
                                  lambda p: p.write_bytes(b" " * (1 << 21))],
                         ids=["missing", "folder", "bytes", "large"])
def test_load_target_says_so_when_the_file_cannot_be_read(tmp_path, make):
    make(tmp_path / "t.toml")
    with pytest.raises(UserError, match="target file"):
        load_target(tmp_path / "t.toml")


# -- the machine at hand ----------------------------------------------------------------------------------------------

PI5 = """processor\t: {}
Features\t: fp asimd evtstrm aes crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp
CPU implementer\t: 0x41
CPU part\t: 0xd0b

"""
V4 = ("pni ssse3 fma cx16 sse4_1 sse4_2 movbe popcnt avx f16c abm bmi1 avx2 bmi2 "
      "avx512f avx512dq avx512cd avx512bw avx512vl")
SAPPHIRE = f"processor : 0\nmodel name : Xeon\nflags : {V4} avx512_vnni avx512_bf16 amx_bf16 amx_tile amx_int8\n"


def root(tmp_path, cpuinfo, caches=()):
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/cpuinfo").write_text(cpuinfo)
    for index, (level, kind, size, shared) in enumerate(caches):
        folder = tmp_path / f"sys/devices/system/cpu/cpu0/cache/index{index}"
        folder.mkdir(parents=True)
        for file, text in (("level", level), ("type", kind), ("size", size), ("shared_cpu_list", shared)):
            (folder / file).write_text(text + "\n")
    return tmp_path


def test_find_cpu_reads_an_arm_board(tmp_path):
    caches = [("1", "Data", "64K", "0"), ("1", "Instruction", "64K", "0"), ("2", "Unified", "512K", "0"),
              ("3", "Unified", "2048K", "0-3")]
    machine = find_cpu(root(tmp_path, "".join(PI5.format(i) for i in range(4)), caches), "aarch64")
    cpu = machine.cpu
    assert (cpu.core, cpu.cores, cpu.kernel_class) == ("cortex-a76", 4, "neon_dot")
    assert (cpu.l1d_kib, cpu.l1i_kib, cpu.l2_kib, cpu.l2_shared_by, cpu.l3_kib) == (64, 64, 512, 1, 2048)
    assert machine.triple == "aarch64-linux-gnu"


def test_find_cpu_takes_what_all_clusters_have(tmp_path):
    little = PI5.format(0).replace(" asimddp", "").replace("0xd0b", "0xd03")
    cpu = find_cpu(root(tmp_path, little + PI5.format(1)), "arm64").cpu
    assert (cpu.core, cpu.kernel_class) == ("cortex-a76", "neon_fp16")


def test_find_cpu_reads_amx_and_vnni(tmp_path):
    cpu = find_cpu(root(tmp_path, SAPPHIRE, [("2", "Unified", "2048K", "0-1,4")]), "x86_64").cpu
    assert (cpu.core, cpu.vector_bits, cpu.kernel_class, cpu.l2_shared_by) == ("x86-64-v4", 512, "amx", 3)
    assert {"avx512vnni", "avx512bf16", "amx-int8", "amx-bf16", "amx-tile"} <= set(cpu.features)


@pytest.mark.parametrize(("flags", "core", "kernel_class"), [
    (V4, "x86-64-v4", "avx512"), (V4.replace("avx512dq", ""), "x86-64-v3", "avx512"),
    (V4.split(" avx512f")[0], "x86-64-v3", "avx2"), ("pni ssse3 cx16 sse4_1 sse4_2 popcnt", "x86-64-v2", "sse"),
])
def test_find_cpu_takes_the_highest_level_that_is_whole(tmp_path, flags, core, kernel_class):
    cpu = find_cpu(root(tmp_path, f"processor : 0\nflags : {flags}\n"), "x86_64").cpu
    assert (cpu.core, cpu.kernel_class) == (core, kernel_class)


@pytest.mark.parametrize(("machine", "core", "kernel_class"), [
    ("x86_64", "x86-64", "sse"), ("aarch64", "generic", "neon"), ("riscv64", "riscv64", "scalar")])
def test_find_cpu_assumes_the_least_when_nothing_can_be_read(tmp_path, machine, core, kernel_class):
    cpu = find_cpu(tmp_path, machine).cpu
    assert (cpu.core, cpu.kernel_class, cpu.cores, cpu.l2_kib) == (core, kernel_class, 1, 0)


def test_host_is_this_machine():
    host = load_target("host")
    assert host.name == "host"
    assert host.cpu.features
    assert host.backends == ("tvm", "onnxruntime")


def test_configure_chooses_a_jetpack_release_by_its_first_numbers():
    orin = load_target("jetson-orin-nano")
    assert orin.software["jetpack"] == "6.2"
    chosen = configure(orin, jetpack="5.1")
    assert (chosen.software["tensorrt"], chosen.software["python"]) == ("8.5.2", "3.8")
    assert configure(orin, jetpack="7.2").software["tensorrt"] == "10.16"
    assert load_target("host").software == {}


@pytest.mark.parametrize(("name", "options", "text"), [
    ("jetson-orin-nano", {"jetpack": "4.6"}, r"no JetPack '4\.6'(.|\n)*6\.2, 7\.2, 6\.0, 5\.1\.6"),
    ("jetson-orin-nano", {"jetpack": "6"}, ""),
    ("rpi4", {"jetpack": "6.2"}, "no JetPack"),
    ("jetson-orin-nano", {"dla": 0}, "no DLA core 0(.|\n)*jetson-orin-nx"),
    ("jetson-orin-nx", {"dla": 2}, "no DLA core 2(.|\n)*0 to 1"),
    ("jetson-orin-nx", {"gpu_fallback": True}, "for DLA builds"),
])
def test_configure_refuses_what_the_device_does_not_offer(name, options, text):
    if not text:
        assert configure(load_target(name), **options).software["jetpack"] == "6.2"
        return
    with pytest.raises(UserError, match=text):
        configure(load_target(name), **options)


def test_configure_keeps_the_choices_apart_from_the_facts():
    nx = configure(load_target("jetson-orin-nx"), dla=1, gpu_fallback=True)
    assert nx.choices == {"dla": 1, "gpu_fallback": True}
    assert load_target("jetson-orin-nx").choices == {}
