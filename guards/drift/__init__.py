"""Drift of a candidate from the root, judged against harmless fine-tunes: kit, bank, components and scores."""
