"""HTTP and the Open Inference Protocol in front of the runners."""
