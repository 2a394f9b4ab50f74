"""Checks and timings on one GPU, in stages that are processes of their own."""
