"""A small rendered dataset in the layout of the release."""
