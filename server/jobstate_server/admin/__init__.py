"""The admin port: what a supervisor asks, answered by threads of their own whatever goes on at the port for callers."""
