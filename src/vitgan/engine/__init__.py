"""How a run goes: training, state, checkpoints, logs and reports."""
