import resource
import subprocess
import sys


def test_help_lists_every_command(edgec):
    done = edgec("--help")
    for name in ("build", "run", "verify", "compare", "bench", "prune", "sparsify", "quantize", "recover", "inspect",
                 "targets", "doctor"):
        assert f"\n  {name} " in done.out


def test_help_is_quick():
    """Processor time, so that other work on the machine does not count."""
    def spent():
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        return used.ru_utime + used.ru_stime

    start = spent()
    for _ in range(2):
        subprocess.run([sys.executable, "-c", "from edgec.cli import main; main()", "--help"], check=True,
                       stdout=subprocess.DEVNULL)
    assert (spent() - start) / 2 < 1.0  # seconds; 0.35 on an idle machine


def test_version_is_the_packages(edgec):
    from importlib.metadata import version

    assert edgec("--version").out == f"edgec {version('edgec')}\n"


def test_output_may_be_cut_off():
    """`edgec targets | head -1`: the reader leaves early, and that is no error."""
    process = subprocess.Popen([sys.executable, "-c", "from edgec.cli import main; main()", "targets"],
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    process.stdout.close()
    assert process.stderr.read() == ""
    assert process.wait(20) == 0
    process.stderr.close()


def test_an_interrupt_while_the_commands_are_loaded_is_no_failure():
    script = ("import builtins, sys\n"
              "real = builtins.__import__\n"
              "def loading(name, *rest):\n"
              "    if name == 'edgec.cli.app':\n"
              "        raise KeyboardInterrupt\n"
              "    return real(name, *rest)\n"
              "builtins.__import__ = loading\n"
              "from edgec.cli import main; main()")
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (130, "stopped\n")
