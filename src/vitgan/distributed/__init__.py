"""Training by several processes: the messages between them, shared random numbers, launch and liveness."""
