"""What editors share: where the subject is, contexts, key statistics, the search for a value."""
