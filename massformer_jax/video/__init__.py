"""Clips: reading, steadying and writing them, frame by frame."""
