"""Supervision: who watches each thread and task, what is restarted, when the process exits, and the server's health."""
