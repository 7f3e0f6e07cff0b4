"""``python -m jobstate_client.cli``, the same as ``jobstate``."""

import sys

from jobstate_client.cli import main

sys.exit(main())
