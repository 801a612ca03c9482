"""A board that is reached over ssh: run programs there, copy files that are missing there, bring files back.

It needs OpenSSH's client here, and on the board nothing but a POSIX shell with coreutils or BusyBox (`tar`,
`sha256sum`, `mv`). One connection serves all calls (OpenSSH's ControlMaster), so each costs a few milliseconds. Keys,
jump hosts and users come from the user's own ssh configuration; no password is ever asked for or kept.

    with open_device("ssh://jetson@192.168.1.20") as board:
        board.put({"bench": Path("bench")}, "edgec-tune")          # only what is missing or different there
        answer = board.run(["./bench", "--runs", "20"], folder="edgec-tune")
        print(answer.output)
"""

from __future__ import annotations

import contextlib
import io
import re
import shlex
import shutil
import subprocess
import tarfile
import tempfile
import threading
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import IO
from urllib.parse import unquote, urlsplit

from edgec.errors import UserError
from edgec.files import sha256
from edgec.progress import Progress, silent

LOCAL = "local"  # the machine at hand, where a device is asked for
CONNECT_SECONDS = 15  # for the TCP connection and the handshake
COMMAND_SECONDS = 600
_ALIVE = ("-o", "ServerAliveInterval=5", "-o", "ServerAliveCountMax=3")  # a dead link is seen after 15 s
_FAILED = 255  # what ssh itself exits with; programs on the board rarely do
_HOME = ".cache/edgec"  # below the home folder of the board's user

# What ssh writes on stderr, and what a user can do about it. Source: messages of OpenSSH 7.2 to 9.2
_SSH_ERRORS = (
    (r"Permission denied|Too many authentication failures", "the board does not accept the key of this user",
     "ssh-copy-id {target}, then try again"),
    (r"Host key verification failed|REMOTE HOST IDENTIFICATION HAS CHANGED",
     "the board's host key is not the known one", "connect once with `ssh {target}` and check the fingerprint"),
    (r"Could not resolve hostname", "there is no host of this name", "check the name, or give the address"),
    (r"Connection refused", "the board refuses the connection",
     "start its ssh server, or name its port: ssh://user@host:port"),
    (r"timed out|No route to host|Network is unreachable", "the board does not answer",
     "check its power, cable and address"),
    (r"closed by|Broken pipe|Connection reset|not responding", "the connection to the board broke",
     "run the command again: what was copied completely stays there"),
)


@dataclass(frozen=True)
class Address:
    """Where a board is: `ssh://[user@]host[:port][/folder]`. Without a folder, one below the user's home."""

    host: str
    user: str = ""
    port: int = 0
    folder: str = _HOME

    @property
    def target(self) -> str:
        """`user@host`, as ssh takes it."""
        return f"{self.user}@{self.host}" if self.user else self.host


@dataclass(frozen=True)
class Answer:
    """What a program on the board gave. output: standard output; errors: standard error as text; code: exit status."""

    code: int
    output: bytes = field(repr=False)
    errors: str = ""

    @property
    def text(self) -> str:
        """Standard output as text."""
        return self.output.decode("utf-8", "replace")


def parse_address(url: str) -> Address:
    """The address that `ssh://user@host:port/folder` names. Raises UserError for anything else."""
    meant = "" if "://" in url or not re.fullmatch(r"[\w.-]+@[\w.-]+", url) else f"ssh://{url}"
    wrong = UserError(f"cannot read the device {url!r}", hint=meant,
                      expected="ssh://user@host, ssh://host:2222 or ssh://host/folder")
    parts = urlsplit(url)
    try:
        port = parts.port or 0
    except ValueError as error:
        raise wrong from error
    host, user = parts.hostname or "", unquote(parts.username or "")
    safe = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:%-]*")  # a leading dash would be an option of ssh
    if parts.scheme != "ssh" or not safe.fullmatch(host) or (user and not safe.fullmatch(user)) or parts.password:
        raise wrong
    folder = unquote(parts.path).rstrip("/") or _HOME
    if "\n" in folder or "\0" in folder:
        raise wrong
    return Address(host, user, port, folder)


class Device:
    """A board over ssh. Use it in a `with` statement; folders are relative to the address' folder on the board.

    ssh: the client and options that come before ours, for example ("ssh", "-F", "my_config").
    """

    def __init__(self, address: Address, ssh: Sequence[str] = ("ssh",), seconds: float = CONNECT_SECONDS) -> None:
        """Connect. Raises UserError, with the way out, if there is no ssh here or the board cannot be reached."""
        if shutil.which(ssh[0]) is None:
            raise UserError("OpenSSH's client is not installed here", hint="apt install openssh-client")
        self.address, self._home = address, address.folder
        self._control = tempfile.mkdtemp(prefix="edgec-ssh-")
        port = ("-p", str(address.port)) if address.port else ()
        self._ssh = (*ssh, "-o", "BatchMode=yes", "-o", f"ConnectTimeout={max(1, int(seconds))}", *_ALIVE,
                     "-o", "ControlMaster=auto", "-o", f"ControlPath={self._control}/%C", "-o", "ControlPersist=60",
                     "-o", "LogLevel=ERROR", *port)
        try:
            self.run(["mkdir", "-p", address.folder], folder="", timeout=2 * seconds)
        except BaseException:
            self.close()
            raise

    # -- programs -----------------------------------------------------------------------------------------------------

    def command(self, argv: Sequence[str], folder: str | None = "", environment: Mapping[str, str] | None = None
                ) -> list[str]:
        """The local command that runs `argv` in `folder` on the board, for a Popen of one's own with pipes."""
        script = f"cd {shlex.quote(folder)} && " if folder else ""
        script += "exec " + ("env " if environment else "")
        script += "".join(f"{shlex.quote(f'{k}={v}')} " for k, v in (environment or {}).items())
        return [*self._ssh, "--", self.address.target, script + shlex.join(argv)]

    def run(self, argv: Sequence[str], *, folder: str | None = None, data: bytes = b"", check: bool = True,
            timeout: float = COMMAND_SECONDS, environment: Mapping[str, str] | None = None) -> Answer:
        """Run a program to its end, with `data` as its standard input.

        Raises UserError if the connection fails or breaks, if it takes longer than `timeout` seconds, and, with
        `check`, if it exits with another status than 0 (its last lines are in the message).
        """
        where = self.path(folder) if folder != "" else ""
        try:
            done = subprocess.run(self.command(argv, where, environment), input=data, capture_output=True,
                                  timeout=timeout, check=False)
        except subprocess.TimeoutExpired as error:
            raise UserError(f"{argv[0]} took longer than {timeout:g} s on the board",
                            where=self.address.target) from error
        errors = done.stderr.decode("utf-8", "replace")
        if done.returncode == _FAILED:
            raise self._connection_error(errors)
        if check and done.returncode:
            raise self.failure(argv, done.returncode, errors)
        return Answer(done.returncode, done.stdout, errors)

    def follow(self, argv: Sequence[str], folder: str, tell: Callable[[str], None],
               timeout: float = COMMAND_SECONDS) -> Answer:
        """Run a program to its end and give each line of its standard error to `tell` as it comes.

        Raises UserError if the connection breaks, or if it takes longer than `timeout` seconds.
        """
        process = subprocess.Popen(self.command(argv, self.path(folder)), stdin=subprocess.DEVNULL,
                                   stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        assert process.stdout is not None
        assert process.stderr is not None
        output: io.BytesIO = io.BytesIO()
        lines: list[str] = []
        reader = threading.Thread(target=shutil.copyfileobj, args=(process.stdout, output), daemon=True)
        stopper = threading.Timer(timeout, process.kill)
        reader.start()
        stopper.start()
        try:
            for line in process.stderr:
                lines.append(line.decode("utf-8", "replace"))
                tell(lines[-1].rstrip("\n"))
            code = process.wait()
        finally:
            timed_out = not stopper.is_alive()
            stopper.cancel()
            process.kill()
            process.wait()
            reader.join()
        if timed_out:
            raise UserError(f"{argv[0]} took longer than {timeout:g} s on the board", where=self.address.target)
        errors = "".join(lines)
        if code == _FAILED:
            raise self._connection_error(errors)
        return Answer(code, output.getvalue(), errors)

    def explain(self, argv: Sequence[str], code: int, errors: str) -> UserError:
        """The UserError for a program, or the connection to it, that ended with `code`."""
        return self._connection_error(errors) if code == _FAILED else self.failure(argv, code, errors)

    def failure(self, argv: Sequence[str], code: int, errors: str) -> UserError:
        """The UserError for a program on the board that ended with `code` and wrote `errors`."""
        lines = [line for line in errors.strip().splitlines() if line.strip()]
        if re.search("No space left on device|Disk quota exceeded|Wrote only", errors):  # the last is GNU tar's
            return UserError("the board's disk is full", where=f"{self.address.target}:{self._home}",
                             hint="free some space there, or name a folder on another disk: ssh://user@host/folder")
        if code == 127 or "not found" in errors:
            return UserError(f"{argv[0]} is not there on the board", where=self.address.target,
                             expected=" | ".join(lines[-2:]))
        return UserError(f"{argv[0]} failed on the board with status {code}", where=self.address.target,
                         expected=" | ".join(lines[-4:]))

    def _connection_error(self, errors: str) -> UserError:
        for pattern, what, hint in _SSH_ERRORS:
            if re.search(pattern, errors):
                return UserError(what, where=self.address.target, expected=_last(errors),
                                 hint=hint.format(target=self.address.target))
        return UserError("the connection to the board failed", where=self.address.target, expected=_last(errors),
                         hint=f"see what `ssh {self.address.target}` says")

    # -- files --------------------------------------------------------------------------------------------------------

    def path(self, folder: str | None = None) -> str:
        """`folder` on the board as ssh's shell sees it: below the address' folder unless it is absolute."""
        return self._home if folder is None else str(PurePosixPath(self._home, folder))

    def put(self, files: Mapping[str, Path], folder: str, progress: Progress = silent) -> list[str]:
        """Copy files (path below `folder` -> local file) that are missing on the board or differ; the names of those.

        A file is there whole or not at all: it is written beside its place, its SHA-256 is checked, then it is renamed.
        Modes are kept. Raises UserError as `run` does, for a full disk, and for a name that leads out of `folder`.
        """
        for name in files:
            parts = PurePosixPath(name)
            if parts.is_absolute() or ".." in parts.parts or not parts.parts or "\n" in name or "\\" in name:
                raise UserError(f"the file name {name!r} leads out of its folder", where=folder)
        wanted = {name: sha256(path) for name, path in files.items()}
        there = self._hashes(folder, wanted)
        missing = [name for name, digest in wanted.items() if there.get(name) != digest]
        if not missing:
            return []
        size = sum(files[n].stat().st_size for n in missing)
        progress("copy", None, f"{len(missing)} of {len(files)} files, {size} bytes, to {self.address.target}")
        self._check_space(folder, size)
        place, incoming = self.path(folder), f".incoming-{uuid.uuid4().hex[:12]}"
        with tempfile.TemporaryFile() as archive:
            with tarfile.open(fileobj=archive, mode="w", format=tarfile.USTAR_FORMAT) as tar:
                for index, name in enumerate(missing):
                    tar.add(files[name], arcname=str(index))
            archive.seek(0)
            self._unpack(archive, place, incoming)
        expected = "".join(f"{wanted[n]}  {incoming}/{i}\n" for i, n in enumerate(missing))
        moves = "".join(f"mkdir -p {shlex.quote(str(PurePosixPath(n).parent))} && mv -f {incoming}/{i} {shlex.quote(n)}"
                        f" || exit 1\n" for i, n in enumerate(missing))
        script = f"sha256sum -c - >/dev/null <<'END' || exit 1\n{expected}END\n{moves}rmdir {incoming}\n"
        try:
            self.run(["sh", "-s"], folder=folder, data=script.encode())
        except UserError:
            self._discard(place, incoming)
            raise
        return missing

    def get(self, name: str, folder: str | None = None, limit: int = 1 << 30) -> bytes:
        """The bytes of a file on the board. Raises UserError if it is not there or larger than `limit` bytes."""
        answer = self.run(["head", "-c", str(limit + 1), name], folder=folder)
        if len(answer.output) > limit:
            raise UserError(f"{name} on the board is larger than {limit} bytes", where=self.address.target)
        return answer.output

    def read_first(self, *names: str) -> str:
        """The text of the first of these (absolute) files that can be read, stripped; empty if none can."""
        script = f"for f in {shlex.join(names)}; do "
        script += '[ -r "$f" ] && tr -d "\\0" <"$f" 2>/dev/null && break; done; true'
        return self.run(["sh", "-c", script], folder="").text.strip()

    def _hashes(self, folder: str, names: Mapping[str, str]) -> dict[str, str]:
        """SHA-256 by name of those of `names` that are in `folder` on the board."""
        script = f"cd {shlex.quote(self.path(folder))} 2>/dev/null || exit 0\n"
        script += f"for f in {shlex.join(names)}; do [ -f \"$f\" ] && sha256sum -- \"$f\"; done; true"
        found = {}
        for line in self.run(["sh", "-s"], folder="", data=script.encode()).text.splitlines():
            digest, _, name = line.partition("  ")
            found[name] = digest
        return found

    def _check_space(self, folder: str, size: int) -> None:
        place = shlex.quote(self.path(folder))
        lines = self.run(["sh", "-c", f"mkdir -p {place} && df -Pk {place}"], folder="").text.splitlines()
        fields = lines[-1].split() if lines else []
        if len(fields) >= 4 and fields[3].isdigit() and int(fields[3]) * 1024 < size:
            raise UserError("there is not enough space on the board", where=f"{self.address.target}:{self._home}",
                            expected=f"{size} bytes, and {int(fields[3]) * 1024} are free",
                            hint="free some space there, or name a folder on another disk: ssh://user@host/folder")

    def _unpack(self, archive: IO[bytes], place: str, incoming: str) -> None:
        script = f"mkdir -p {shlex.quote(f'{place}/{incoming}')} && tar -xf - -C {shlex.quote(f'{place}/{incoming}')}"
        done = subprocess.run(self.command(["sh", "-c", script]), stdin=archive, capture_output=True, check=False)
        errors = done.stderr.decode("utf-8", "replace")
        if done.returncode == _FAILED:
            raise self._connection_error(errors)
        if done.returncode:
            self._discard(place, incoming)
            raise self.failure(["tar"], done.returncode, errors)

    def _discard(self, place: str, incoming: str) -> None:
        with contextlib.suppress(UserError):  # the cause is reported; a leftover is harmless and has its own name
            self.run(["rm", "-rf", f"{place}/{incoming}"], folder="", timeout=30)

    # -- life ---------------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """End the connection."""
        with contextlib.suppress(subprocess.TimeoutExpired, OSError):
            subprocess.run([*self._ssh, "-O", "exit", "--", self.address.target], capture_output=True, timeout=10,
                           check=False)
        shutil.rmtree(self._control, ignore_errors=True)

    def __enter__(self) -> Device:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        self.close()


def open_device(url: str, ssh: Sequence[str] = ("ssh",)) -> Device:
    """Connect to the board that `ssh://user@host` names. Raises UserError if it cannot be reached."""
    return Device(parse_address(url), ssh)


def _last(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else ""
