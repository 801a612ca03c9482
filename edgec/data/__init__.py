"""Samples: what users have (images, arrays, generators), read, preprocessed, labelled. Never all in memory at once."""
