"""Scorers: from one item's output, or its log-likelihoods, to an outcome. One module per kind."""
