"""What gradient methods share: batches, losses and one trainer."""
