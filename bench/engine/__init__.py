"""Training: the epoch loop, its steps, devices, random streams and checkpoints."""
