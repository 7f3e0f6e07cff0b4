"""Stores jobs, events and everything else that must survive a restart. ``base`` is the specification."""
