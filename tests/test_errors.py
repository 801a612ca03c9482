"""What a message says, and what it leaves out."""

from __future__ import annotations

import errno

import pytest

from edgec.errors import EdgecError, InternalError, Refusal, Unsupported, UserError, of_machine


def failure(path):
    with pytest.raises(OSError, match="Errno") as caught:
        path.read_bytes()
    return caught.value


@pytest.mark.parametrize("kind", [UserError, Unsupported, InternalError])
def test_message_has_a_line_for_each_part_in_order(kind: type[EdgecError]):
    error = kind("w", where="p", reason="r", expected="e", hint="h")
    assert error.message().splitlines() == ["w", "  where: p", "  reason: r", "  expected: e", "  do: h"]


@pytest.mark.parametrize("kind", [UserError, Unsupported, InternalError])
def test_reason_is_what_an_exception_says_without_number_and_path(kind, tmp_path):
    assert kind("w", reason=failure(tmp_path / "absent")).reason == "No such file or directory"
    assert kind("w", reason=OSError("cut short")).reason == "cut short"
    assert kind("w", reason=EOFError()).reason == "EOFError"
    assert kind("w", reason=ValueError(" not a number\n")).message() == "w\n  reason: not a number"


def test_unsupported_lists_every_refusal_behind_the_rest():
    error = Unsupported("w", [Refusal("a", "r.1", "no", "f.py:3"), Refusal("b", "r.2", "never", "b")], hint="h")
    assert error.message().splitlines() == ["w", "  do: h", "  - a (f.py:3): no [r.1]", "  - b: never [r.2]"]


@pytest.mark.parametrize(("number", "what"), [
    (errno.ENOSPC, "disk is full"), (errno.EROFS, "read or written"), (errno.ENAMETOOLONG, "name is too long"),
    (errno.ENOTDIR, "stands where a folder")])
def test_of_machine_tells_what_is_wrong_with_a_place(number, what):
    error = of_machine(OSError(number, "words", "net.edgec"))
    assert what in error.what
    assert error.where == "net.edgec"
    assert error.exit_code == 2
    assert of_machine(OSError(number, "words", "/tmp/x"), "out").where == "out"


def test_of_machine_leaves_other_errors_alone(tmp_path):
    assert of_machine(failure(tmp_path / "absent")) is None
    assert of_machine(ValueError("28")) is None
