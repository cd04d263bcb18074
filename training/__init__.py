"""Training: the run of a configuration, its one loop, and what the loop needs."""
