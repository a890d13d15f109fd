"""Stairlock's tests: they mirror the tree, and tests/faults holds the named bad inputs."""
