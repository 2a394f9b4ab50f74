"""Weights of PyTorch to ours and back, and the reader of PyTorch's files."""
