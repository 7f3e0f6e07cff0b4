"""``watch.py HOST:PORT`` prints ``<sequence> <name> <job_id>`` for every event, with the synchronous client.

Ends with the cancellation of the job end-of-watch, or when its standard input is closed.
"""

from __future__ import annotations

import sys
import threading

from jobstate_client import Client, EventType


def main(address: str) -> None:
    """Watch from the oldest event kept."""
    with Client(address) as client, client.watch(start="earliest") as watch:

        def end_with_standard_input() -> None:
            sys.stdin.read()
            watch.close()

        threading.Thread(target=end_with_standard_input, daemon=True).start()
        for event in watch:
            print(event.sequence, event.name, event.job.id, flush=True)
            if event.type is EventType.CANCELLED and event.job.id == "end-of-watch":
                break


if __name__ == "__main__":
    main(sys.argv[1])
