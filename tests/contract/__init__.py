"""The repository keeps its own promises: contract, generated code, layers, tidiness, packages."""
