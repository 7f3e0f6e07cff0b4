"""The five periodic duties: one file each, with ``run_once``, and the schedule that runs them."""
