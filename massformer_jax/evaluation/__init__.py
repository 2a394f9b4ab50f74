"""Scores of a model, or of label maps in files, over many photographs."""
