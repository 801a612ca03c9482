import ctypes

import pytest

from edgec.backends.tensorrt.board import libraries
from edgec.backends.tensorrt.board.files import CANNOT, Failure


def loader(monkeypatch, *there):
    """A loader that knows only what is `there`; the names that it was asked for, in order."""
    asked = []

    def load(name):
        asked.append(name)
        if name not in there:
            raise OSError(name)
        return name

    monkeypatch.setattr(ctypes, "CDLL", load)
    return asked


def test_load_library_tries_the_loader_before_the_folders_of_cuda(monkeypatch, tmp_path):
    for version in ("11.4", "12.6"):
        (tmp_path / f"cuda-{version}").mkdir()
        (tmp_path / f"cuda-{version}" / "libcudart.so.1").touch()
    monkeypatch.setattr(libraries, "_LIBRARY_FOLDERS", (f"{tmp_path}/cuda*",))
    newest = f"{tmp_path}/cuda-12.6/libcudart.so.1"
    asked = loader(monkeypatch, newest, f"{tmp_path}/cuda-11.4/libcudart.so.1")
    assert libraries.load_library("cudart", ("12", "11.0"), "install it") == newest
    assert asked == ["libcudart.so", "libcudart.so.12", "libcudart.so.11.0", newest]


def test_load_library_says_what_to_do_when_it_is_nowhere(monkeypatch):
    loader(monkeypatch)
    with pytest.raises(Failure, match="libnvrtc") as caught:
        libraries.load_library("nvrtc", (), "install it")
    assert (caught.value.hint, caught.value.code) == ("install it", CANNOT)
