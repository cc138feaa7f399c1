"""Real storage servers, started in a directory and stopped again, for tests and demonstrations."""
