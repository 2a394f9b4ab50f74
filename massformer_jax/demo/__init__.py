"""A page on which a trained model is tried."""
