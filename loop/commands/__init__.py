"""The commands of ``stairlock``, one module per group.

What loads torch is imported inside the commands that need it.
"""
