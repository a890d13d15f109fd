"""Where steps run: all backends take a spec and an output directory, and return the step's manifest."""
