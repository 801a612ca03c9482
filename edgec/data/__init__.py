"""Samples: what users have, as feeds of a model, with labels and metrics. Never all in memory at once.

`dataset.open_data(source, graph.inputs, preprocess=..., labels=...)` gives a Data: iterate it for Samples, as often as
needed; `take`, `split`, `feeds` and `batches` give parts of it. `preprocess.parse` reads what the user states.
"""
