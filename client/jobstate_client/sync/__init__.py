"""The synchronous client, for threads."""
