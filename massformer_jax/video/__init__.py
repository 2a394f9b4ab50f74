"""Videos: their frames, scores that are steady over time, and videos of masks."""
