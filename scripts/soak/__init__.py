"""A soak: trainings that are killed, and files that are altered, as many as there is time for."""
