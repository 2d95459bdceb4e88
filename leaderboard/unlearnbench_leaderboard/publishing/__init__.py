"""Tables and results on the hub, or in a folder for any static host."""
