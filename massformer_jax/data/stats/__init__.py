"""Statistics of a dataset: shares of the classes, sizes, and how intricate its masks are."""
