"""Calibration: what numbers a tensor takes, and which integer grid loses the least of them. Arrays only, no graph.

Two passes over the data, both independent of batch size and order bit for bit: `ranges` (smallest, largest, largest of
each sample), then `histograms` (counts in fixed bins of that range). Then, per tensor, a method of `methods` turns the
histogram into a Threshold. `convergence` says whether there were enough samples, `lint` whether they are good ones.
"""
