"""Files that are written of a segmented photograph, by the names of their formats."""
