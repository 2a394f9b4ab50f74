"""The benchmark for one TPU chip: its list of checks and timings, and the cost of single rows."""
