"""Modules of the network."""
