"""First-party tasks. They use the public API of `unlearnbench` only."""
