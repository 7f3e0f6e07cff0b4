"""Maintenance tasks, a module each, with the registry that lists them and the schedule that runs them."""
