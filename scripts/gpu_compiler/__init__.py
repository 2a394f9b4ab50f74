"""Compilation for GPUs on a machine without one: whether programs compile, and what they need."""
