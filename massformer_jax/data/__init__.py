"""Building, reading and augmenting the dataset (NumPy only, no JAX)."""
