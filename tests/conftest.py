"""What every test gets: one thread, no network, no display, and the data folder beside the checkout."""

from __future__ import annotations

import os
import signal
from pathlib import Path

# Before torch or numpy is imported anywhere: they read these once. Forked ranks inherit them.
os.environ.update(
    OMP_NUM_THREADS="1",  # a fork is safe only in a process without a running thread pool
    HF_HUB_OFFLINE="1",
    TOKENIZERS_PARALLELISM="false",
    MPLBACKEND="Agg",
)

import pytest

# A shell sets SIGINT aside for what it runs in the background, and our children would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)


ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real data: $R1MEGA_SHARED/data, or ../shared/data beside the checkout."""
    folder = Path(os.environ.get("R1MEGA_SHARED") or ROOT.parent / "shared") / "data"
    if not folder.is_dir():
        pytest.skip("real data is absent: there is no ../shared/data, and R1MEGA_SHARED names no other place")
    return folder
