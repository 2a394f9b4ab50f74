"""The benchmark for one NVIDIA GPU: its list of checks and timings, and PyTorch's times."""
