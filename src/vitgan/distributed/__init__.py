"""Training by several processes: collectives, random numbers of a shared batch, launch and liveness."""
