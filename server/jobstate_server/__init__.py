"""The jobstate server. docs/architecture.md describes its packages."""
