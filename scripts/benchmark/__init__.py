"""Measurements of the network, its layers and the data pipeline, for docs/performance.md."""
