"""The commands of `vitgan`, one a module: `add` declares the arguments, `run` does the work.

`run` returns the exit code and raises UserError on a user's mistake. SUMMARY and EXAMPLES are parts of the
help.
"""
