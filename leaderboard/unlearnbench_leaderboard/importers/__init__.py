"""Peers' logs: what OpenUnlearning, lm-evaluation-harness and TOFU's own code have written.

A log is recognised by what is in it, and its numbers are computed again from its items by
`unlearnbench.metrics`. Read `log` (what an importer makes), then a format (`open_unlearning`,
`legacy_tofu`, `lm_eval_harness`), `read` (which file is what), and `table` (what is printed).
"""
