"""Supervision: who looks after each thread, what is restarted, when the process gives up, and the health of it all."""
