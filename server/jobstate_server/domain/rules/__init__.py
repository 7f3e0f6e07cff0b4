"""What each family of commands does to jobs, field by field. ``decider.Decider`` applies the rules.

A rule for one job takes (context, job, command, now); other rules take (context, command, view). Each returns what
changes or raises a domain error, and changes nothing itself. A command of the server that has been overtaken returns
None.
"""
