"""``python -m jobstate_server``: the same as ``jobstate-server``."""

from jobstate_server.cli import main

raise SystemExit(main())
