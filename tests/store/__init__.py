"""The conformance suite: what every store must do. The folder ``sqlite`` holds SQLite's own."""
