"""The backend `tensorrt`: engines for NVIDIA Jetson, prepared anywhere, built where the GPU is."""

from edgec.backends.tensorrt.backend import BACKEND

__all__ = ["BACKEND"]
