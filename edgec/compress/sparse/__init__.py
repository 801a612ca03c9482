"""Zeros in weights: patterns that hardware uses, and patterns that only save memory; said honestly which is which."""
