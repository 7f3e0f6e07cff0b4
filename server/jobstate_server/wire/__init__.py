"""Between the domain and ``jobstate.v1``: the only room that knows both."""
