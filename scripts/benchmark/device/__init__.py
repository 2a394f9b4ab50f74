"""What the benchmarks of a GPU and of a TPU share: checks, timings, a budget, results as they come.

Each of the two has a folder beside this one, with its list of measurements and what only it needs.
"""
