"""A peer's sample counts only when all its jobs were done and its own store shows them; each is shown at its best."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from ..bench.peers.install import NotInstalled, go_build
from ..bench.peers.services import PeerFailed, sample
from ..bench.peers.setting import Run, Trial, Work

JOBS = 100


def says(**figures: float) -> list[str | Path]:
    """A program that says it did just its work in two seconds, but for these figures."""
    told = {"jobs": JOBS, "stored": JOBS, "failed": 0, "seconds": 2.0, **figures}
    return [sys.executable, "-c", f"print('a warning'); print({json.dumps(told)!r})"]


def test_a_sample_is_how_many_jobs_were_done_per_second() -> None:
    assert sample(says(), JOBS) == JOBS / 2


@pytest.mark.parametrize(
    "figures",
    [{"jobs": JOBS - 1}, {"jobs": JOBS + 1}, {"stored": JOBS - 1}, {"stored": JOBS + 1}, {"failed": 1}],
    ids=str,
)
def test_a_sample_that_is_not_just_its_work_does_not_count(figures: dict[str, float]) -> None:
    with pytest.raises(PeerFailed, match=f"was to do {JOBS}"):
        sample(says(**figures), JOBS)


def test_a_program_that_fails_is_told_with_what_it_printed() -> None:
    with pytest.raises(PeerFailed, match="no Redis here"):
        sample([sys.executable, "-c", "raise SystemExit('no Redis here')"], JOBS)


def runs_at(rates: dict[int, float]) -> Run:
    """A way to do the work that is this quick, by the number of reports."""
    return lambda work: rates[work.reports]


def test_a_peer_is_shown_at_its_quickest_for_each_kind_of_work(tmp_path: Path) -> None:
    trial = Trial(tmp_path, lambda _: None, quick=False)

    name, run = trial.best([("few", runs_at({0: 10.0, 3: 9.0})), ("many", runs_at({0: 20.0, 3: 8.0}))], JOBS)

    assert (run(Work(JOBS, 0)), run(Work(JOBS, 3))) == (20.0, 9.0)
    assert name == "many; with reports few"


def test_a_peer_that_is_best_one_way_has_one_name(tmp_path: Path) -> None:
    trial = Trial(tmp_path, lambda _: None, quick=False)

    name, _ = trial.best([("few", runs_at({0: 1.0, 3: 1.0})), ("many", runs_at({0: 2.0, 3: 2.0}))], JOBS)

    assert name == "many"


def test_what_cannot_be_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")

    with pytest.raises(NotInstalled, match="it needs `go`, which is not installed"):
        go_build("river_work", {}, ["."])
