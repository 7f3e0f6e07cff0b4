"""What tests of a whole server share: servers to run, clients to call them, a clock to wait for."""
