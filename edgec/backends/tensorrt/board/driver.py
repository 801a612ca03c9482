"""Is there a working NVIDIA driver? Asked in a child process, because some TensorRT versions crash without one."""

import json
import subprocess
import sys
from typing import Any, Dict

from edgec.backends.tensorrt.board.files import CANNOT, Failure

_ASK = r"""
import ctypes, json
answer = {}
try:
    cu = ctypes.CDLL("libcuda.so.1")
except OSError as error:
    print(json.dumps({"library": str(error)})); raise SystemExit
answer["code"] = cu.cuInit(0)
if answer["code"] == 0:
    number, name, size = ctypes.c_int(), ctypes.create_string_buffer(128), ctypes.c_size_t()
    def ask(attribute):
        cu.cuDeviceGetAttribute(ctypes.byref(number), attribute, 0)
        return number.value
    cu.cuDeviceGetCount(ctypes.byref(number)); answer["count"] = number.value
    if number.value:
        cu.cuDeviceGetName(name, 128, 0); answer["name"] = name.value.decode("utf-8", "replace")
        cu.cuDeviceTotalMem_v2(ctypes.byref(size), 0); answer["memory"] = size.value
        answer["sm"] = 10 * ask(75) + ask(76)
        answer["integrated"] = bool(ask(18))
        cu.cuDriverGetVersion(ctypes.byref(number)); answer["cuda"] = number.value
print(json.dumps(answer))
"""
# Results of cuInit. Source: cuda.h
_CODES = {
    100: ("the driver finds no NVIDIA GPU", "in a container: start it with --runtime nvidia (or --gpus all)"),
    802: ("the GPU's system services are not ready", "wait until the machine has started, then try again"),
    803: ("the driver and libcuda.so belong to different versions", "reboot after an update; in a container, use an "
          "image for this JetPack"),
    804: ("the CUDA compatibility package does not support this GPU", "remove it, or use the JetPack's own CUDA"),
    999: ("the driver reports an unknown error", "reboot, and look into `dmesg`"),
}


def probe_driver(timeout: float = 60.0) -> Dict[str, Any]:
    """Facts about the GPU: name, sm (87 for 8.7), cuda (12060 for 12.6), memory (bytes), integrated (shares the CPU's).

    Raises Failure, with the way out, if there is no driver, no GPU, or the driver does not answer.
    """
    process = subprocess.Popen([sys.executable, "-I", "-c", _ASK], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        output, errors = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired as error:
        process.kill()
        process.communicate()
        raise Failure("the NVIDIA driver does not answer", "reboot the machine", CANNOT) from error
    if process.returncode != 0:
        last = errors.decode("utf-8", "replace").strip().splitlines()[-1:]
        raise Failure("asking the NVIDIA driver ended with status {}{}".format(
            process.returncode, ": " + last[0] if last else ""), "reboot, and look into `dmesg`", CANNOT)
    answer: Dict[str, Any] = json.loads(output.decode("utf-8"))
    if "library" in answer:
        raise Failure("there is no NVIDIA driver here: " + answer["library"], "run this on the Jetson, or on a PC with "
                      "an NVIDIA GPU; in a container: start it with --runtime nvidia", CANNOT)
    if answer["code"] != 0:
        what, hint = _CODES.get(answer["code"], ("the driver answers with error {}".format(answer["code"]), "reboot"))
        raise Failure(what, hint, CANNOT)
    if not answer["count"]:
        raise Failure(_CODES[100][0], _CODES[100][1], CANNOT)
    return answer
