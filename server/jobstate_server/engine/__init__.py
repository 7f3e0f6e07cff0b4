"""What makes things happen: the committer, the due timer, the readers."""
