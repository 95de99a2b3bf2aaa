"""Paceline serves PyTorch models; see README.md."""
