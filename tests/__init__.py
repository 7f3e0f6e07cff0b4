"""The tests of jobstate."""

import os

# PostgreSQL is started by a fork where tests run as root; gRPC's handlers of a fork, while it is busy, kill the child.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
