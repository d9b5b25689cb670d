"""Commands of the command line, one a file: `add` declares the arguments, `run` does the work."""
