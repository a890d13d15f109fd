"""The drift audit around the probes: its kit, its bank, and the step that measures one checkpoint."""
