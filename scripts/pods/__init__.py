"""Training and evaluation compiled for whole slices of TPUs, and the tables of docs/pods.md."""
