"""From photographs to labels or scores of the same size."""
