"""The watch: the log, read on; a bell that says when; a position per watcher."""
