"""Reference models: the pair that a task unlearns from, trained by a stated recipe."""
