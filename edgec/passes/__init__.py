"""Passes over a Graph: same meaning, fewer nodes. `pipelines.optimize` runs them in the only order."""
