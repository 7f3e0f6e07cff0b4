"""SQLite's own: the file, its lock, its schema, its plans, a full disk, and the process that dies."""
