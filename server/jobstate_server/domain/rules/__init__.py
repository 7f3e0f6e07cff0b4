"""What each family of commands does to jobs, field by field. ``decider.Decider`` applies the rules.

A rule for one job takes (context, job, command, now); other rules take (context, command, view). A rule returns the
change or raises a domain error, and changes nothing itself. It returns None for a command of the server that is no
longer needed, because the job has changed since.
"""
