"""Tables of tuned kernels: files, signatures, and what the registry makes of them."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from edgec.kernels import conv2d_direct, conv2d_winograd, registry, tables
from edgec.kernels.tables import Choice, Entry, Table

from edgec.cpu import Cpu
from edgec.errors import UserError
from edgec.plan.kernels import group
from edgec.target import load_target
from tests.models import Builder

AVX512 = load_target("x86-64-v4")


def conv(channels=32, out=32, stride=1, seed=0, size=(14, 14)):
    b = Builder(seed)
    x = b.input("x", 1, channels, *size)
    y = b("Conv", x, b.weight(out, channels, 3, 3), strides=[stride, stride], pads=[1, 1, 1, 1])
    (kernel,) = group(b.output(b("Relu", y)))
    return kernel


def test_tables_survive_their_file(tmp_path):
    table = Table("cortex-a72", True, "a board", "2026-01-02", {"edgec": "1"},
                  {"Conv a": Entry(Choice("conv2d_direct", {"tile": {"rows": 1}}), 1e-3, 2e-3)}, {"Conv a": ["x"]})
    tables.write(table, tmp_path / "t" / "cortex-a72.json")
    assert tables.read(tmp_path / "t" / "cortex-a72.json") == table


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"schema": 1}', '{"schema": 1, "core": "a", "entries": {"k": {}}}',
                                  '{"schema": 99}'])
def test_file_that_is_no_table_is_refused(tmp_path, text):
    (tmp_path / "t.json").write_text(text)
    with pytest.raises(UserError):
        tables.read(tmp_path / "t.json")


def test_signature_tells_kernels_apart_by_what_their_time_depends_on():
    one = tables.signature(conv())
    assert one == tables.signature(conv(seed=3))  # other numbers
    assert len({one, tables.signature(conv(out=48)), tables.signature(conv(stride=2)),
                tables.signature(conv(size=(14, 15)))}) == 4
    assert tables.signature(replace(conv(), anchor=None)) == ""


def test_core_name_says_whether_x86_has_the_dot_product():
    assert tables.core_name(AVX512.cpu) == "x86-64-v4"
    assert tables.core_name(replace(AVX512.cpu, features=(*AVX512.cpu.features, "avx512vnni"))) == "x86-64-v4-vnni"
    assert tables.core_name(Cpu("cortex-a76", "aarch64")) == "cortex-a76"


def test_space_holds_schedules_of_several_modules_that_json_can_state():
    space = list(registry.candidates(conv(), AVX512))
    assert {module for module, _, _ in space} >= {conv2d_direct, conv2d_winograd}
    keys = [choice.key for _, _, choice in space]
    assert len(set(keys)) == len(keys)
    assert all(json.loads(json.dumps(choice.schedule)) == choice.schedule for _, _, choice in space)


def test_registry_takes_the_choice_of_the_table():
    kernel = conv()
    for module, schedule, choice in registry.candidates(kernel, AVX512):
        table = Table("x86-64-v4", entries={tables.signature(kernel): Entry(choice)})
        assert registry.choose(kernel, AVX512, table) == (module, schedule)


def test_registry_goes_by_its_rules_when_the_table_has_nothing_that_exists():
    kernel = conv()
    gone = Table("x86-64-v4", entries={tables.signature(kernel): Entry(Choice("conv2d_direct", {"tile": 7}))})
    for table in (None, Table("x86-64-v4"), gone):
        assert registry.choose(kernel, AVX512, table) == (registry.find(kernel, AVX512), None)


def test_users_table_stands_above_the_shipped_one_and_nothing_is_chosen_from_predictions(tmp_path, monkeypatch):
    entry, own = Entry(Choice("a", {})), Entry(Choice("b", {}))
    cpu = Cpu("cortex-a72", "aarch64")
    monkeypatch.setattr(tables, "shipped", lambda core: Table(core, entries={"k": entry, "l": entry}))
    assert tables.known(cpu, None).entries == {"k": entry, "l": entry}
    tables.write(Table("cortex-a72", entries={"k": own}), tmp_path / "cortex-a72.json")
    assert tables.known(cpu, tmp_path).entries == {"k": own, "l": entry}
    monkeypatch.setattr(tables, "shipped", lambda core: Table(core, measured=False, entries={"k": entry}))
    assert tables.known(cpu, None).entries == {}


@pytest.mark.parametrize("core", ["x86-64-v3", "x86-64-v4", "x86-64-v4-vnni", "cortex-a53", "cortex-a72", "cortex-a76"])
def test_shipped_table_says_whether_it_was_measured(core):
    table = tables.shipped(core)
    assert table is not None
    assert (table.core, table.measured) == (core, core.startswith("x86"))
    assert table.versions
    assert (table.date != "" and table.machine != "") is table.measured
    assert all(e.seconds < e.before if table.measured else e.seconds == 0 < e.cycles for e in table.entries.values())


def test_tables_of_the_package_are_in_the_wheel():
    assert tables.shipped("no-such-core") is None
