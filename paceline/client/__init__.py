"""The client: predictions over HTTP or natively, with the same names and errors."""
