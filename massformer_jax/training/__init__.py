"""Training: the loop, its step, and what it keeps."""
