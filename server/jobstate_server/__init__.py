"""The jobstate server. docs/architecture.md tells how its rooms hang together."""
