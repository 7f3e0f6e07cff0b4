"""What the tests of a whole server share: servers, clients and a clock that a test moves."""
