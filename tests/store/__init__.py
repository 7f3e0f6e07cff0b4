"""The conformance suite: what every store must do. ``test_sqlite`` and ``test_sqlite_plans`` are SQLite's own."""
