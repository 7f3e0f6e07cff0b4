"""Settings: a TOML file, ``JOBSTATE_*`` in the environment, flags of the command line, in rising order.

Read once, at start. A value that cannot work refuses to start, with a sentence that says what to change.
"""

from jobstate_server.config.loading import BadSettings, load
from jobstate_server.config.recurring import RecurringSettings
from jobstate_server.config.settings import JobTypeSettings, Settings, is_loopback, is_span
from jobstate_server.config.values import span_text

__all__ = [
    "BadSettings",
    "JobTypeSettings",
    "RecurringSettings",
    "Settings",
    "is_loopback",
    "is_span",
    "load",
    "span_text",
]
