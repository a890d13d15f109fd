"""Models made on purpose: harmless fine-tunes for the bank and its controls, and organisms with a planted fault."""
