"""Measurement inside the model."""
