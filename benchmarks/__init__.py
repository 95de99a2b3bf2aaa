"""Load generator and overhead measurements; each number in the docs names the command here that made it."""
