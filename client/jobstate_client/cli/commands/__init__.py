"""The commands of ``jobstate``: their options, and what each one does."""
