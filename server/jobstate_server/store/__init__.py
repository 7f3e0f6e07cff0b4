"""Where jobs, events and everything that must survive are kept. ``base`` is the specification."""
