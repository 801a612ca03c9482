"""Kernels, their backends, and where their data lies."""
