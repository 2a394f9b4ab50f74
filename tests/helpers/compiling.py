"""Options for programs that tests compile, run once or twice, and forget."""

# A training step of the tiny network then takes 47 seconds instead of 75 to compile.
UNOPTIMIZED = {"xla_backend_optimization_level": "0"}
UNOPTIMIZED_FLAG = "--xla_backend_optimization_level=0"
