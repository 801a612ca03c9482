"""Structured pruning: which channels belong together, which may go, and the graph without them."""
