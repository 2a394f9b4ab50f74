"""The TFDS builder of the dataset MaSS13K."""
