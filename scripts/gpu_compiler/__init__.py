"""Programs compiled for GPUs that are not there: whether they compile, and what they need."""
