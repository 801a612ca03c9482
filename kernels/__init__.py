"""Tuned kernels: tensor programs with their schedule space. Installed as `edgec.kernels`."""
