"""edgec: a hardware-aware deployment compiler for edge devices."""
