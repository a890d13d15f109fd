"""The trusted core: what decides and what is remembered. No torch, no loop, no probes, no dashboard."""
