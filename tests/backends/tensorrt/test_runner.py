from __future__ import annotations

import io
import struct

import numpy as np
import pytest

from edgec.backends.tensorrt.board.files import Failure
from edgec.backends.tensorrt.board.runner import Engine, _convert
from edgec.backends.tensorrt.board.session import Session
from tests.backends.tensorrt.fake import FakeCuda, FakeTensorRT
from tests.backends.tensorrt.test_board import describe, variant


class Doubling(Session):
    """A session whose engine doubles x."""

    def launch(self):
        x = np.frombuffer(self.read("x"), np.float32)
        self.write("y", (2 * x).tobytes())


@pytest.fixture
def engine(tmp_path):
    describe(tmp_path, variant(), inputs=[{"name": "x", "dtype": "float32", "shape": [1, 3]}],
             outputs=[{"name": "y", "dtype": "float32", "shape": [1, 3]}])
    fake = FakeTensorRT("10.3")
    return Engine(str(tmp_path), session=Doubling(fake, b"plan of 10.3.0", None, FakeCuda()))


def test_run_takes_and_gives_arrays(engine):
    x = np.array([[1, 2, 3.5]], np.float32)
    np.testing.assert_array_equal(engine.run({"x": x})["y"], 2 * x)


@pytest.mark.parametrize("feeds", [{}, {"x": np.zeros((1, 4), np.float32)}, {"x": np.zeros((1, 3))}])
def test_run_refuses_what_does_not_fit(engine, feeds):
    with pytest.raises(Failure, match="input x is"):
        engine.run(feeds)


def test_serve_answers_requests_until_the_pipe_ends(engine):
    x = np.array([1, 2, 3], np.float32).tobytes()
    sink = io.BytesIO()
    engine.serve(io.BytesIO((b"EDG1" + struct.pack("<I", 3) + x) * 2), sink)
    answer = sink.getvalue()
    assert struct.unpack_from("<Q", answer) == (24,)
    assert struct.unpack_from("<iI", answer, 8) == (0, 3)
    assert len(answer) == 8 + 2 * (8 + 3 * 8 + 12)
    np.testing.assert_array_equal(np.frombuffer(answer[-12:], np.float32), [2, 4, 6])


def test_int64_of_the_model_meets_int32_of_tensorrt_8():
    data = np.array([1, -2, 3], np.int64).tobytes()
    narrow = _convert(data, "int64", "int32")
    np.testing.assert_array_equal(np.frombuffer(narrow, np.int32), [1, -2, 3])
    assert _convert(narrow, "int32", "int64") == data
    assert _convert(data, "int64", "int64") is data
    with pytest.raises(Failure, match="float32 where the bundle says int8"):
        _convert(data, "float32", "int8")
