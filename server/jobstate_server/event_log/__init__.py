"""The event log as its readers see it: recent events, pages, cursors, and news of other replicas."""
