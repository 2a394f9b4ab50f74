"""Counts of pixels, scores made of them, and the published results beside them."""
