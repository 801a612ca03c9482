"""A camera's picture becomes the engine's input on the GPU, by the CUDA kernel that the bundle carries."""

import ctypes
import hashlib
import os
from typing import Any, Dict, List

from edgec.backends.tensorrt.board.files import Failure, say, write_whole
from edgec.backends.tensorrt.board.libraries import load_library

FORMATS = ("RGB", "BGR", "GRAY", "NV12", "YUYV")  # as edgec_preprocess.h numbers them
_RESIZES, _COLORS = ("none", "stretch", "short", "letterbox"), ("RGB", "BGR", "GRAY")
_BYTES = {"RGB": 3, "BGR": 3, "GRAY": 1, "NV12": 1, "YUYV": 2}  # of one pixel in a row
_PICTURE_KERNELS = {"float32": b"edgec_preprocess_float", "float16": b"edgec_preprocess_half",
                    "int8": b"edgec_preprocess_int8"}
_SOURCE, _INCLUDED = "edgec_preprocess.cu", "edgec_preprocess.h"
_BLOCK = 32  # threads, along a row; the kernel's own rule


class Recipe(ctypes.Structure):
    """edgec_recipe of edgec_preprocess.h."""

    _fields_ = [("resize", ctypes.c_int), ("size", ctypes.c_int * 2), ("crop", ctypes.c_int * 2),
                ("corner", ctypes.c_int), ("color", ctypes.c_int), ("planar", ctypes.c_int), ("height", ctypes.c_int),
                ("width", ctypes.c_int), ("fill", ctypes.c_float), ("scale", ctypes.c_float),
                ("mean", ctypes.c_float * 3), ("std", ctypes.c_float * 3)]


class Placed(ctypes.Structure):
    """edgec_placed of edgec_preprocess.h: a recipe for pictures of one size."""

    _fields_ = [("recipe", Recipe), ("format", ctypes.c_int), ("height", ctypes.c_int), ("width", ctypes.c_int),
                ("stride", ctypes.c_int), ("inner", ctypes.c_int * 2), ("top", ctypes.c_int), ("left", ctypes.c_int)]


def place_picture(row: Dict[str, Any], form: str, width: int, height: int, stride: int = 0) -> Placed:
    """Where the picture lies in the input, as edgec_place computes it. row: `pictures` of engine.json.

    Raises Failure for an unknown format, or a picture that is smaller than what is cut from it.
    """
    if form not in FORMATS:
        raise Failure(f"there is no picture format {form!r}", "give one of " + ", ".join(FORMATS))
    size, crop = row["size"], row["crop"]
    inner, top, left = [height, width], 0, 0
    if row["resize"] == "stretch":
        inner = list(size)
    elif row["resize"] == "short":
        inner = [max(1, round(side * size[0] / min(height, width))) for side in (height, width)]
    elif row["resize"] == "letterbox":
        ratio = min(size[0] / height, size[1] / width)
        inner = [max(1, int(side * ratio)) for side in (height, width)]
        if not row["corner"]:
            top, left = (size[0] - inner[0]) // 2, (size[1] - inner[1]) // 2
    box = list(size) if row["resize"] == "letterbox" else list(inner)
    if crop[0]:
        if box[0] < crop[0] or box[1] < crop[1]:
            raise Failure(f"a picture of {width} x {height} is too small for a crop of {crop[1]} x {crop[0]}")
        top, left = top - (box[0] - crop[0]) // 2, left - (box[1] - crop[1]) // 2
        box = list(crop)
    if box != [row["height"], row["width"]]:
        raise Failure(f"a picture of {width} x {height} does not fill the input of {row['width']} x {row['height']}",
                      "give one of that size, or build the bundle with --preprocess 'resize=...'")
    recipe = Recipe(_RESIZES.index(row["resize"]), (ctypes.c_int * 2)(*size), (ctypes.c_int * 2)(*crop), row["corner"],
                    _COLORS.index(row["color"]), row["planar"], row["height"], row["width"], row["fill"], row["scale"],
                    (ctypes.c_float * 3)(*row["mean"]), (ctypes.c_float * 3)(*row["std"]))
    return Placed(recipe, FORMATS.index(form), height, width, stride or width * _BYTES[form],
                  (ctypes.c_int * 2)(*inner), top, left)


class Pictures:
    """The bundle's kernel on this GPU, for the input of one session."""

    def __init__(self, folder: str, keep: str, row: Dict[str, Any], sm: int, session: Any, driver: Any = None) -> None:
        """Compile the kernel with CUDA's own compiler library at the first start. Raises Failure if that is missing."""
        self._row, self._session = row, session
        self._cuda = driver if driver is not None else ctypes.CDLL("libcuda.so.1")
        tensor = next(t for t in session.tensors if t["name"] == row["input"])
        if tensor["dtype"] not in _PICTURE_KERNELS or (tensor["dtype"] == "int8" and not row["grid"]):
            raise Failure("no kernel makes an input of type {}".format(tensor["dtype"]))
        self._picture, self._bytes = ctypes.c_void_p(), 0
        self._module, self._kernel = ctypes.c_void_p(), ctypes.c_void_p()
        code = _compiled(folder, keep, sm)
        self._check(self._cuda.cuModuleLoadData(ctypes.byref(self._module), code))
        name = _PICTURE_KERNELS[tensor["dtype"]]
        self._check(self._cuda.cuModuleGetFunction(ctypes.byref(self._kernel), self._module, name))

    def write(self, picture: bytes, form: str, width: int, height: int, stride: int = 0) -> None:
        """Copy a picture to the GPU and make the input of it. stride: bytes from row to row, 0 for rows without gaps.

        Raises Failure if the picture has fewer bytes than its size and format say, or does not fit the recipe.
        """
        placed = place_picture(self._row, form, width, height, stride)
        rows = height + height // 2 if form == "NV12" else height
        if len(picture) < placed.stride * rows:
            raise Failure(f"the picture has {len(picture)} bytes; {form} of {width} x {height} has "
                          f"{placed.stride * rows}")
        if self._bytes < len(picture):
            self._session.release(self._picture)
            self._picture, self._bytes = self._session.allocate(len(picture)), len(picture)
        self._session.copy_in(self._picture, picture)
        grid, target = ctypes.c_float(self._row["grid"]), self._session.address(self._row["input"])
        arguments = [ctypes.cast(ctypes.byref(a), ctypes.c_void_p) for a in (placed, self._picture, target, grid)]
        channels = 1 if self._row["color"] == "GRAY" else 3
        self._check(self._cuda.cuLaunchKernel(
            self._kernel, -(-self._row["width"] // _BLOCK), self._row["height"], channels, _BLOCK, 1, 1, 0,
            self._session.stream, (ctypes.c_void_p * 4)(*arguments), None))

    def close(self) -> None:
        """Free the kernel and the picture."""
        self._session.release(self._picture)
        if self._module:
            self._cuda.cuModuleUnload(self._module)
        self._picture, self._module, self._bytes = ctypes.c_void_p(), ctypes.c_void_p(), 0

    def _check(self, code: int) -> None:
        if code:
            raise Failure(f"CUDA could not start the picture's kernel (error {code})", "python3 build.py --check")


def _compiled(folder: str, keep: str, sm: int) -> bytes:
    """The kernel in PTX for this GPU, which every driver can load; kept beside the engines."""
    texts = []
    for name in (_SOURCE, _INCLUDED):
        with open(os.path.join(folder, name), "rb") as file:
            texts.append(file.read())
    digest = hashlib.sha256(b"".join(texts)).hexdigest()[:12]
    path = os.path.join(keep, f"pictures-sm{sm}-{digest}.ptx")
    if not os.path.isfile(path):
        say("build", "the kernel for pictures")
        os.makedirs(keep, exist_ok=True)
        write_whole(path, _compile(texts[0], texts[1], sm))
    with open(path, "rb") as file:
        return file.read() + b"\0"


def _compile(source: bytes, included: bytes, sm: int) -> bytes:
    compiler, program = _compiler(), ctypes.c_void_p()
    options: List[bytes] = [f"--gpu-architecture=compute_{sm}".encode(), b"--std=c++14", b"--fmad=false"]
    one = ctypes.c_char_p * 1
    code = compiler.nvrtcCreateProgram(ctypes.byref(program), source, _SOURCE.encode(), 1, one(included),
                                       one(_INCLUDED.encode()))
    code = code or compiler.nvrtcCompileProgram(program, len(options), (ctypes.c_char_p * len(options))(*options))
    if code:
        raise Failure("CUDA's compiler cannot compile {}: {}".format(_SOURCE, _answer(
            compiler, program, "ProgramLog").decode("utf-8", "replace").strip() or f"error {code}"))
    return _answer(compiler, program, "PTX").rstrip(b"\0")


def _answer(compiler: Any, program: Any, what: str) -> bytes:
    size = ctypes.c_size_t()
    if getattr(compiler, f"nvrtcGet{what}Size")(program, ctypes.byref(size)):
        return b""
    data = ctypes.create_string_buffer(size.value)
    getattr(compiler, f"nvrtcGet{what}")(program, data)
    return data.raw


def _compiler() -> Any:
    return load_library("nvrtc", ("13", "12", "11.2", "10.2"), "for CUDA's compiler: sudo apt install cuda-nvrtc-12-6 "
                        "(or the version of your JetPack); or prepare the input yourself and give it to run()")
