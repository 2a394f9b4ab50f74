"""A small converter from jaxprs, the programs that jax traces, to ONNX.

`walk` goes through a program; `graph` holds what is written so far; all other modules say what the
operations of one kind become.
"""
