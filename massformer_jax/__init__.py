"""MaSSFormer in JAX: matting-level semantic segmentation of 12-megapixel photographs."""
