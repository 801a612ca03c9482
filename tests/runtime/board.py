"""A board for tests: OpenSSH's server on this machine, with keys, a port and a home folder of its own."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

SSHD = shutil.which("sshd") or ("/usr/sbin/sshd" if os.path.exists("/usr/sbin/sshd") else "")


@dataclass
class Board:
    """url: what `--device` takes; ssh: the client with the board's key; folder: what the board calls its folder."""

    url: str
    ssh: tuple[str, ...]
    folder: Path
    port: int
    server: subprocess.Popen[bytes]


def start_board(folder: Path, *, path: str = "") -> Iterator[Board]:
    """Start a server that logs in this user; `path` goes in front of PATH there. Skips where there is no sshd."""
    if not SSHD or not shutil.which("ssh-keygen"):
        pytest.skip("no sshd: apt install openssh-server")
    for name in ("host", "user"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / name], check=True)
    shutil.copy(folder / "user.pub", folder / "authorized")
    (folder / "authorized").chmod(0o600)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    # after the login shell has read the user's own files, which may set PATH
    environment = f'ForceCommand PATH={path}:$PATH exec /bin/sh -c "$SSH_ORIGINAL_COMMAND"\n' if path else ""
    (folder / "sshd_config").write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {folder}/host\nAuthorizedKeysFile {folder}/authorized\n"
        f"PidFile none\nStrictModes no\nUsePAM no\nPasswordAuthentication no\n{environment}")
    if os.getuid() == 0:
        os.makedirs("/run/sshd", mode=0o755, exist_ok=True)
    with open(folder / "log", "wb") as log:
        server = subprocess.Popen([SSHD, "-D", "-e", "-f", folder / "sshd_config"], stderr=log)
    user = pwd.getpwuid(os.getuid()).pw_name
    known = f"[127.0.0.1]:{port} " + " ".join((folder / "host.pub").read_text().split()[:2]) + "\n"
    (folder / "known").write_text(known)
    (folder / "config").write_text(
        f"Host *\n  IdentityFile {folder}/user\n  IdentitiesOnly yes\n  UserKnownHostsFile {folder}/known\n"
        "  StrictHostKeyChecking yes\n")
    try:
        for _ in range(200):
            with socket.socket() as attempt:
                if attempt.connect_ex(("127.0.0.1", port)) == 0:
                    break
            if server.poll() is not None:
                pytest.skip("sshd does not start here: " + (folder / "log").read_text()[-300:])
            time.sleep(0.02)
        home = folder / "home"
        yield Board(f"ssh://{user}@127.0.0.1:{port}{home}", ("ssh", "-F", str(folder / "config")), home, port, server)
    finally:
        server.kill()
        server.wait()
