"""First-party probes: attacks that show whether a model forgot. One file each."""
