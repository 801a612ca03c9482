import subprocess
import sys
import time


def test_help_lists_every_command(edgec):
    done = edgec("--help")
    for name in ("build", "run", "verify", "compare", "bench", "inspect", "targets", "doctor"):
        assert f"\n  {name} " in done.out


def test_help_is_quick():
    times = []
    for _ in range(3):
        start = time.perf_counter()
        subprocess.run([sys.executable, "-c", "from edgec.cli import main; main()", "--help"], check=True,
                       stdout=subprocess.DEVNULL)
        times.append(time.perf_counter() - start)
    assert min(times) < 1.0  # seconds; 0.3 on an idle machine


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
