"""First-party methods, one file each. They use the public API of `unlearnbench` only."""
