from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgec.errors import UserError
from edgec.runtime.device import Address, Device, open_device, parse_address
from tests.runtime.board import Board, start_board


@pytest.fixture(scope="module")
def board(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Board]:
    yield from start_board(tmp_path_factory.mktemp("board"))


@pytest.fixture(scope="module")
def device(board: Board) -> Iterator[Device]:
    with open_device(board.url, board.ssh) as opened:
        yield opened


@pytest.mark.parametrize(("url", "address"), [
    ("ssh://jetson", Address("jetson")),
    ("ssh://me@10.0.0.7:2222", Address("10.0.0.7", "me", 2222)),
    ("ssh://me@board.local/mnt/big%20disk/", Address("board.local", "me", 0, "/mnt/big disk")),
])
def test_parse_address_reads_user_port_and_folder(url: str, address: Address) -> None:
    assert parse_address(url) == address


def test_parse_address_offers_what_was_meant() -> None:
    with pytest.raises(UserError) as caught:
        parse_address("jetson@192.168.1.20")
    assert caught.value.hint == "ssh://jetson@192.168.1.20"
    with pytest.raises(UserError) as caught:
        parse_address("-oProxyCommand=x@y")
    assert caught.value.hint == ""


@pytest.mark.parametrize("url", ["jetson", "http://jetson", "ssh://", "ssh://-oProxyCommand=x", "ssh://me:secret@host",
                                 "ssh://host:99999", "ssh://-x@host", "ssh://host/a%0Ab"])
def test_parse_address_refuses_what_ssh_could_misread(url: str) -> None:
    with pytest.raises(UserError, match="cannot read the device"):
        parse_address(url)


def test_run_gives_output_errors_and_status(device: Device) -> None:
    answer = device.run(["sh", "-c", "cat; echo oops >&2; exit 3"], data=b"a\0b", check=False)
    assert (answer.code, answer.output, answer.errors.strip()) == (3, b"a\0b", "oops")


def test_run_keeps_arguments_apart_and_sets_folder_and_environment(device: Device, board: Board) -> None:
    (board.folder / "sub dir").mkdir(parents=True, exist_ok=True)
    answer = device.run(["sh", "-c", 'printf "%s|" "$PWD" "$NAME" "$@"', "x", "a b", "$(id)", "'"], folder="sub dir",
                        environment={"NAME": "v w"})
    assert answer.text == f"{board.folder}/sub dir|v w|a b|$(id)|'|"


def test_run_names_the_program_that_is_missing(device: Device) -> None:
    with pytest.raises(UserError, match="no_such_tool is not there on the board"):
        device.run(["no_such_tool"])


def test_run_stops_after_its_timeout(device: Device) -> None:
    with pytest.raises(UserError, match=r"longer than 0\.3 s"):
        device.run(["sleep", "20"], timeout=0.3)


def test_put_copies_only_what_is_missing_or_differs(device: Device, board: Board, tmp_path: Path) -> None:
    files = {"bin/run me": tmp_path / "a", "data": tmp_path / "b"}
    (tmp_path / "a").write_bytes(b"#!/bin/sh\necho hello\n")
    (tmp_path / "a").chmod(0o755)
    (tmp_path / "b").write_bytes(os.urandom(1 << 18))
    assert device.put(files, "put") == ["bin/run me", "data"]
    assert device.put(files, "put") == []
    (board.folder / "put/data").write_bytes(b"changed there")
    assert device.put(files, "put") == ["data"]
    assert (board.folder / "put/data").read_bytes() == (tmp_path / "b").read_bytes()
    assert device.run(["./bin/run me"], folder="put").text == "hello\n"
    assert sorted(p.name for p in (board.folder / "put").iterdir()) == ["bin", "data"]


def test_put_refuses_names_that_lead_out(device: Device, tmp_path: Path) -> None:
    (tmp_path / "a").touch()
    for name in ("../a", "/a", "x/../../a", "a\nb"):
        with pytest.raises(UserError, match="leads out"):
            device.put({name: tmp_path / "a"}, "put")


def test_get_reads_bytes_and_minds_its_limit(device: Device, board: Board) -> None:
    (board.folder / "f").write_bytes(b"\0\1" * 50)
    assert device.get("f") == b"\0\1" * 50
    with pytest.raises(UserError, match="larger than 99"):
        device.get("f", limit=99)
    with pytest.raises(UserError, match="failed on the board"):
        device.get("g")


def test_read_first_takes_the_first_that_is_there(device: Device, tmp_path: Path) -> None:
    (tmp_path / "model").write_bytes(b"NVIDIA Jetson\0")
    assert device.read_first("/nowhere", str(tmp_path / "model")) == "NVIDIA Jetson"
    assert device.read_first("/nowhere") == ""


def test_put_says_that_the_disk_is_full(board: Board, tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", small], capture_output=True).returncode:
        pytest.skip("cannot mount a small file system here")
    try:
        (tmp_path / "big").write_bytes(bytes(1 << 20))
        with open_device(f"{board.url.rpartition(':')[0]}:{board.port}{small}", board.ssh) as device:
            with pytest.raises(UserError, match="not enough space"):
                device.put({"big": tmp_path / "big"}, "x")
            device._check_space = lambda *_: None  # type: ignore[method-assign]  # the disk fills up meanwhile
            with pytest.raises(UserError, match="disk is full") as caught:
                device.put({"big": tmp_path / "big"}, "x")
            assert "another disk" in caught.value.hint
            assert list((small / "x").iterdir()) == []
    finally:
        subprocess.run(["umount", small], check=True)


def test_open_says_what_is_wrong_with_the_connection(board: Board, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="refuses the connection"):
        open_device("ssh://127.0.0.1:1", board.ssh)
    with pytest.raises(UserError, match="no host of this name"):
        open_device("ssh://no-such-host.invalid", board.ssh)
    (tmp_path / "known").write_text("")
    with pytest.raises(UserError, match="host key") as caught:
        open_device(board.url, (*board.ssh, "-o", f"UserKnownHostsFile={tmp_path}/known"))
    assert "fingerprint" in caught.value.hint
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", tmp_path / "other"], check=True)
    with pytest.raises(UserError, match="does not accept the key") as caught:
        open_device(board.url, ("ssh", "-F", "none", "-i", str(tmp_path / "other"), "-o", "IdentitiesOnly=yes",
                                "-o", f"UserKnownHostsFile={Path(board.ssh[2]).parent}/known"))
    assert "ssh-copy-id" in caught.value.hint
    with pytest.raises(UserError, match="not installed here"):
        open_device(board.url, ("no-such-ssh",))


def test_run_says_that_the_connection_broke(tmp_path: Path) -> None:
    for board in start_board(tmp_path):
        with open_device(board.url, board.ssh) as device:
            with pytest.raises(UserError, match="connection to the board"):
                device.run(["sh", "-c", "kill -9 $PPID; sleep 5"])
            assert device.run(["echo", "again"]).text == "again\n"  # a new connection is made
