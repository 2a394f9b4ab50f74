"""Programs for those who work on massformer_jax, run from the checkout: `python -m scripts.NAME`.

    benchmark     measures time, memory and FLOPs on this machine; benchmark.gpu and benchmark.tpu
                  check and time on a GPU and on a TPU
    pods          compiles training and evaluation for whole slices of TPUs
    gpu_compiler  compiles programs for GPUs, on a machine without one
    soak          trainings that are killed and files that are altered, many thousand times
    launch        starts training on TPUs, with Slurm, and on Kubernetes
    ci            holds what continuous integration runs in addition to the tests

Modules that several of them use lie beside this file.
"""

import pathlib

ROOT = pathlib.Path(__file__).resolve().parents[1]  # the folder of the checkout
