"""mass13k dataset."""
