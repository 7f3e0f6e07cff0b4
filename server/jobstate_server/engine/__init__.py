"""Carries out commands and reads: the committer, the due timer, the readers."""
