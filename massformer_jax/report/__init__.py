"""Pages to look at: an evaluation, and two compared; each one HTML file that needs nothing else."""
