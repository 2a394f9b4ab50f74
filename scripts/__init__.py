"""Programs for those who work on massformer_jax, run from the checkout: `python -m scripts.NAME`.

    benchmark     time, memory and FLOPs on this machine; benchmark.gpu on a GPU
    pods          training and evaluation compiled for whole slices of TPUs
    gpu_compiler  programs compiled for GPUs that are not there
    launch        starts training on TPUs, with Slurm, on Kubernetes
    ci            what continuous integration runs beside the tests

What two of them share lies beside this file.
"""

import pathlib

ROOT = pathlib.Path(__file__).resolve().parents[1]  # of the checkout
