"""A graph as an ONNX model, and ONNX Runtime sessions: how it leaves edgec, and how it runs fast on many samples."""
