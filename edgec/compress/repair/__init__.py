"""Repairs that win accuracy back without training: equalization, bias correction, learned rounding, smoothing.

Each is one file with one pure function that gives a new graph (or new numbers for products) and what it did.
"""
