"""The cluster's files, as text: slurm.conf, gres.conf, slurmdbd.conf."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tests.slurm import network


@dataclass(frozen=True)
class Shape:
    """What the cluster pretends to be. An H100 node by default; nothing here is really there.

    port: the first of three that are used on this machine. mail: a program that gets Slurm's mail.
    """

    nodes: int = 4
    cpus: int = 192
    memory_mb: int = 2_000_000
    gpus: int = 8
    paper: int = 256
    port: int = 27100
    name: str = "r1megatest"


PARTITIONS = ("main", "high")
"""main: what is used. high: its jobs preempt those of main, which are requeued after 15 s of grace."""

SLURM = """\
ClusterName={shape.name}
SlurmctldHost={host}({controller})
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
# A requeued job waits for cred_expire before it starts again: 2 minutes by default.
AuthInfo=socket={run}/munge.sock,cred_expire=5
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool/%n
SlurmctldPidFile={run}/slurmctld.pid
SlurmdPidFile={run}/slurmd-%n.pid
SlurmctldLogFile={run}/slurmctld.log
SlurmdLogFile={run}/slurmd-%n.log
SlurmctldDebug=info
SlurmdDebug=info
MailProg=/bin/true
PlugStackConfig={folder}/etc/plugstack.conf
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
GresTypes=gpu
# Believe the CPUs and the memory written here, whatever the machine has.
SlurmdParameters=config_overrides
# A preempted job gets the signal that it asked for with --signal before its grace time begins.
SlurmctldParameters=preempt_send_user_signal
SchedulerType=sched/backfill
SchedulerParameters=bf_interval=2,sched_interval=2,batch_sched_delay=0,sched_min_interval=0
PriorityType=priority/basic
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
JobRequeue=1
ReturnToService=2
InactiveLimit=0
KillWait=5
MinJobAge=3600
MaxArraySize=1001
SlurmctldTimeout=30
SlurmdTimeout=20
BatchStartTimeout=10
CompleteWait=0
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStoragePort={ports[2]}
AccountingStoragePass={run}/munge.sock
AccountingStorageTRES=gres/gpu
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=5
{nodes}
PartitionName=DEFAULT Nodes={names} MaxTime=INFINITE DefaultTime=60 State=UP
PartitionName=main Default=YES PriorityTier=1 PreemptMode=REQUEUE GraceTime=15
PartitionName=high Default=NO PriorityTier=10 PreemptMode=OFF
{paper}
"""
NODE = (
    "NodeName={name} NodeHostname={name} NodeAddr={address} CPUs={shape.cpus} Boards=1 SocketsPerBoard=1 "
    "CoresPerSocket={shape.cpus} ThreadsPerCore=1 RealMemory={shape.memory_mb} Gres=gpu:{shape.gpus}"
)
PAPER = """\
SuspendProgram=/bin/true
ResumeProgram=/bin/true
SuspendTime=INFINITE
NodeName=paper[1-{shape.paper}] CPUs={shape.cpus} Boards=1 SocketsPerBoard=1 CoresPerSocket={shape.cpus} \
ThreadsPerCore=1 RealMemory={shape.memory_mb} Gres=gpu:{shape.gpus} State=CLOUD
PartitionName=paper Nodes=paper[1-{shape.paper}] Default=NO MaxTime=INFINITE State=UP
"""
GRES = """\
AutoDetect=off
NodeName=tnode[1-{shape.nodes}] Name=gpu File={folder}/dev/gpu[0-{last}]
NodeName=paper[1-{shape.paper}] Name=gpu Count={shape.gpus}
"""
ACCOUNTING = """\
AuthType=auth/munge
AuthInfo=socket={run}/munge.sock
DbdHost=localhost
DbdAddr=127.0.0.1
DbdPort={ports[2]}
SlurmUser=root
LogFile={run}/slurmdbd.log
PidFile={run}/slurmdbd.pid
StorageType=accounting_storage/mysql
StorageHost=localhost
StorageUser=slurm
StoragePass=slurm
StorageLoc=slurm_acct_db
"""


def files(shape: Shape, folder: Path, host: str) -> dict[str, str]:
    """name -> text, for folder/etc. host: the name of this machine, on which slurmctld runs."""
    nodes = [
        NODE.format(name=network.node(number), address=network.address(number), shape=shape)
        for number in range(1, shape.nodes + 1)
    ]
    given = {
        "shape": shape,
        "folder": folder,
        "run": folder / "run",
        "host": host,
        "controller": network.CONTROLLER,
        "ports": [shape.port + offset for offset in range(3)],
        "nodes": "\n".join(nodes),
        "names": f"tnode[1-{shape.nodes}]",
        "paper": PAPER.format(shape=shape),
        "last": shape.gpus - 1,
    }
    return {
        "slurm.conf": SLURM.format(**given),
        "gres.conf": GRES.format(**given),
        "slurmdbd.conf": ACCOUNTING.format(**given),
        "plugstack.conf": "",
    }
