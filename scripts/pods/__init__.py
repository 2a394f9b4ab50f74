"""Compilation of training and evaluation for whole slices of TPUs, and tables for docs/pods.md."""
