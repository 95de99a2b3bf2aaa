"""One module per framework: how its models are written to and loaded from a store version."""
