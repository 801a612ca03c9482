"""The errors that edgec raises, and the Refusal that explains why a node was turned down.

Every message says what is wrong, where it is in the user's own model, what was expected, and what to do next.
Exit codes: `UserError` 2, `Unsupported` 3, `InternalError` 70 (sysexits.h, EX_SOFTWARE).
"""

from __future__ import annotations

import errno
from collections.abc import Sequence
from dataclasses import dataclass

_FULL = ("the disk is full", "", "free some space and try again")
_CLOSED = ("this may not be read or written", "a file or folder that this user may use",
           "change its permissions, or choose another place")
_OF_MACHINE = {  # errors of the system that say what is wrong with a place: what, expected, hint
    errno.ENOSPC: _FULL, errno.EDQUOT: _FULL,
    errno.EACCES: _CLOSED, errno.EPERM: _CLOSED, errno.EROFS: _CLOSED,
    errno.ENAMETOOLONG: ("the name is too long for this file system", "", "choose a shorter one"),
    errno.ENOTDIR: ("a file stands where a folder is needed", "a folder", "choose another place"),
    errno.EISDIR: ("a folder stands where a file is needed", "a file", "choose another place"),
}


@dataclass(frozen=True)
class Refusal:
    """Why a pass, a backend or a reader does not take a node.

    node: name of the node; rule: short stable key such as `conv.rank`; text: the reason in a user's words;
    source: where the node stands in the user's model (`file.py:12` or the ONNX node name).
    """

    node: str
    rule: str
    text: str
    source: str = ""

    def __str__(self) -> str:
        place = f" ({self.source})" if self.source and self.source != self.node else ""
        return f"{self.node}{place}: {self.text} [{self.rule}]"


class EdgecError(Exception):
    """Base of all errors of edgec; `exit_code` is what the command line returns."""

    exit_code = 1

    def __init__(self, what: str, *, where: str = "", reason: str | BaseException = "", expected: str = "",
                 hint: str = "") -> None:
        self.what, self.where, self.expected, self.hint = what, where, expected, hint
        self.reason = _words(reason) if isinstance(reason, BaseException) else reason
        super().__init__(self.message())

    def message(self) -> str:
        """The whole text, one line for each of what, where, reason (what the system or a library said), expected and
        hint that is given.
        """
        lines = [self.what]
        for label, text in (("where", self.where), ("reason", self.reason), ("expected", self.expected),
                            ("do", self.hint)):
            if text:
                lines.append(f"  {label}: {text}")
        return "\n".join(lines)


def _words(error: BaseException) -> str:
    """What an exception says, without the number and the path that an OSError adds."""
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return text.strip() or type(error).__name__


def of_machine(error: BaseException, where: str = "") -> UserError | None:
    """What an error of the system says of the user's disk, names and permissions; None for any other error.

    where: the place to name instead of the file that the system tried.
    """
    number = error.errno if isinstance(error, OSError) else None
    if number not in _OF_MACHINE:
        return None
    what, expected, hint = _OF_MACHINE[number]
    name = getattr(error, "filename", None) or ""
    return UserError(what, where=where or str(name), reason="" if number in (errno.ENOSPC, errno.EDQUOT) else error,
                     expected=expected, hint=hint)


class UserError(EdgecError):
    """The input, an option or the environment is wrong, and the user can change it."""

    exit_code = 2


class Unsupported(EdgecError):
    """The model is valid, but edgec or the target cannot do it. Lists every refusal at once."""

    exit_code = 3

    def __init__(self, what: str, refusals: Sequence[Refusal] = (), *, where: str = "",
                 reason: str | BaseException = "", expected: str = "", hint: str = "") -> None:
        self.refusals = tuple(refusals)
        super().__init__(what, where=where, reason=reason, expected=expected, hint=hint)

    def message(self) -> str:
        """The text of EdgecError, then one line per refusal."""
        return "\n".join([super().message(), *(f"  - {refusal}" for refusal in self.refusals)])


class InternalError(EdgecError):
    """edgec itself is wrong. `reproducer` names a file that shows the failure, when one was written."""

    exit_code = 70

    def __init__(self, what: str, *, where: str = "", reason: str | BaseException = "", expected: str = "",
                 hint: str = "", reproducer: str = "") -> None:
        self.reproducer = reproducer
        if reproducer:
            hint = f"{hint}; " * bool(hint) + f"send {reproducer} with your report"
        super().__init__(what, where=where, reason=reason, expected=expected, hint=hint)
