"""What runs models: dispatcher, executor, worker process, frameworks."""
