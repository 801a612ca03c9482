import numpy as np
import pytest

from edgec.backends.tvm.lower.signal import LOWERINGS
from tests.backends.tvm.lower.cases import Case, check

RANDOM = np.random.default_rng(13)


def floats(*shape):
    return RANDOM.standard_normal(shape).astype(np.float32)


def dft(x, length=None, axis=None, **attributes):
    arrays = [x, None if length is None else np.array(length), None if axis is None else np.array(axis)]
    while arrays[-1] is None:
        arrays.pop()
    return Case("DFT", arrays, attributes, (1, 2))


def test_dft_equals_reference():
    real, complex_ = floats(2, 9, 1), floats(2, 5, 6, 2)
    check([dft(real), dft(real, onesided=1), dft(complex_), dft(complex_, axis=1), dft(complex_, axis=0, inverse=1),
           dft(complex_, inverse=1), dft(real, 7), dft(real, 16, onesided=1), dft(complex_, 4, 1)], LOWERINGS, 1e-5)


@pytest.mark.parametrize("length", [8, 9])
def test_dft_inverts_half_a_spectrum(length):
    spectrum = np.fft.rfft(floats(3, length))
    x = np.stack([spectrum.real, spectrum.imag], -1).astype(np.float32)
    wanted = np.fft.irfft(spectrum, n=length)[..., None]
    case = dft(x, length, inverse=1, onesided=1)
    case.expected = lambda _node: [wanted]
    check([case], LOWERINGS, 1e-5)


def stft(x, step, window=None, length=None, constants=(1, 2, 3), **attributes):
    arrays = [x, np.array(step), window, None if length is None else np.array(length)]
    return Case("STFT", arrays[:3] if length is None else arrays, attributes, constants)


def test_stft_equals_reference():
    x, window = floats(2, 40, 1), np.hanning(12).astype(np.float32)
    check([stft(x, 5, window, onesided=1), stft(x, 7, window, 12, onesided=0), stft(x, 3, None, 9, onesided=1),
           stft(x, 5, window, constants=(1, 3), onesided=1)], LOWERINGS, 1e-5)


def test_windows_and_mel_weights_are_constants():
    numbers = [np.array(v) for v in (8, 16, 8000)] + [np.array(v, np.float32) for v in (0, 4000)]
    check([*(Case(op, [np.array(9)], {"periodic": periodic}, (0,))
             for op in ("HannWindow", "HammingWindow", "BlackmanWindow") for periodic in (0, 1)),
           Case("MelWeightMatrix", numbers, constants=range(5))], LOWERINGS)


def test_dft_refuses_matrices_that_are_too_large():
    reason = LOWERINGS["DFT"].refuse(dft(floats(1, 4096, 1)).node())
    assert reason is not None
    assert reason[0] == "tvm.no_lowering"
