"""Time, memory and FLOPs of the network, its layers and the data pipeline: docs/performance.md."""
