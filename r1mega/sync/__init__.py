"""From the trainer's weights to the generator's, proved each time: versions, checksums, a probe."""

from r1mega.sync.probe import probe
from r1mega.sync.push import Receiver, SyncError, SyncReport, push
from r1mega.sync.source import PolicyWeights, WeightSource

__all__ = ["PolicyWeights", "Receiver", "SyncError", "SyncReport", "WeightSource", "probe", "push"]
