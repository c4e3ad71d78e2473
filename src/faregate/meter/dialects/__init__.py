"""One file per dialect: what its events mean and which of its numbers contain which."""
