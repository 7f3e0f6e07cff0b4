"""What else one would use, made to do the same work beside jobstate: ``make bench-peers``."""
