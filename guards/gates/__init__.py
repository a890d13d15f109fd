"""Gates: each turns evidence into one verdict on one declared requirement."""
