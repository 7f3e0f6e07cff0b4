"""The store in a PostgreSQL database, which any number of servers can share."""
