"""What turns a request into deltas: an upstream model server, or the simulated engine."""
