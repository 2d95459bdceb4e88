"""Results for a pull request: gathered by who sends it, reviewed by who gets it."""
