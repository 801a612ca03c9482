"""CUDA's libraries, wherever a release or a container keeps them."""

import ctypes
import glob
from typing import Any, Tuple

from edgec.backends.tensorrt.board.files import CANNOT, Failure

_LIBRARY_FOLDERS = ("/usr/local/cuda*/lib64", "/usr/local/cuda*/targets/*/lib", "/usr/lib/*")


def load_library(stem: str, versions: Tuple[str, ...], hint: str) -> Any:
    """The library libSTEM.so: where the loader looks, without a version and then with each of `versions`; after that in
    CUDA's own folders, the newest first.

    Raises Failure, with `hint`, if it is not there.
    """
    name = f"lib{stem}.so"
    places = [name] + [f"{name}.{version}" for version in versions]
    for folder in _LIBRARY_FOLDERS:
        places += sorted(glob.glob(f"{folder}/{name}*"), reverse=True)
    for place in places:
        try:
            return ctypes.CDLL(place)
        except OSError:
            continue
    raise Failure(f"{name} is not there", hint, CANNOT)
