"""The guide's service in Paceline and in the guide's own product, under the same load. `python -m benchmarks.peers`."""
