"""What other languages, and other tools, make of jobstate: real programs of theirs against a real server."""
