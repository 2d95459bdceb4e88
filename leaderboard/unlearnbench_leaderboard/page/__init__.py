"""The page: one file, whole without scripts."""
