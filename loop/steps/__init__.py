"""The heavy steps, each a function from a typed spec and an output directory to a cost."""
