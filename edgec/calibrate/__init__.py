"""Calibration: what numbers a tensor takes, and which integer grid loses the least of them. Arrays only, no graph.

One pass over the data, independent of batch size and order bit for bit: `growing` counts how often which numbers come,
in bins that widen as larger ones come (`histograms`), with their `ranges` (smallest, largest, largest of each sample).
Then, per tensor, a method of `methods` turns the histogram into a Threshold. `convergence` says whether there were
enough samples, `lint` whether they are good ones.
"""
