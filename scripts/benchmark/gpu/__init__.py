"""Checks and times on one GPU, in stages that are processes of their own."""
