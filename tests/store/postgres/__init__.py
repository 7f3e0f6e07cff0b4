"""What only PostgreSQL has: other servers at the same tables, connections that break, notifications."""
