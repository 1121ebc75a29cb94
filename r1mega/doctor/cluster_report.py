"""The cluster doctor's report: a line for each node, then what is wrong and what to do."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict

from r1mega.doctor.judge import Finding
from r1mega.doctor.rows import Row

MARKS = {"ok": "", "note": "", "slow": " SLOW", "broken": " BROKEN"}
_WORST = {"broken": 0, "slow": 1, "ok": 2, "note": 3}


def to_json(finding: Finding) -> str:
    values = {"ok": finding.ok, **asdict(finding), "bad_hosts": finding.bad_hosts()}
    return json.dumps(values, indent=1, ensure_ascii=False)


def describe(finding: Finding) -> str:
    """The whole report as text."""
    lines = [*_table(finding), ""]
    lines += [f"{row.check} on {row.host} (rank {row.rank}): {row.text}" for row in finding.problems]
    if finding.silent:
        lines.append(
            f"no word of rank {', '.join(map(str, finding.silent))}: its node did not start it, or is gone"
        )
    advice = list(dict.fromkeys(row.advice for row in finding.problems if row.advice))
    if advice:
        lines += ["", "What to do", *(f"  {number}. {one}" for number, one in enumerate(advice, start=1))]
    return "\n".join([*lines, "", verdict(finding)])


def verdict(finding: Finding) -> str:
    count = len(finding.hosts)
    if finding.ok:
        return f"{'This node is' if count == 1 else f'All {count} nodes are'} fit."
    if not finding.rows:
        return "No node has said anything: the job did not start. Its output tells why."
    bad = ", ".join(f"{host} {why}" for host, why in finding.bad_hosts().items())
    silent = f"{len(finding.silent)} silent ranks" if finding.silent else ""
    return f"Not fit: {'; '.join(filter(None, [bad, silent]))}."


def _table(finding: Finding) -> Iterator[str]:
    checks = list(dict.fromkeys(row.check for row in finding.rows))
    head = ["node", *checks]
    body = [[host, *(_cell(finding.rows, host, check) for check in checks)] for host in finding.hosts]
    widths = [max(len(line[i]) for line in [head, *body]) for i in range(len(head))]
    for line in [head, *body]:
        yield "  ".join(f"{cell:{width}}" for cell, width in zip(line, widths, strict=True)).rstrip()


def _cell(rows: Sequence[Row], host: str, check: str) -> str:
    """The worst of a node's ranks: of two alike, the one with the smaller figure."""
    mine = [row for row in rows if row.host == host and row.check == check]
    if not mine:
        return "-"
    worst = min(mine, key=lambda row: (_WORST[row.state], row.figure if row.figure is not None else 0.0))
    return worst.cell + MARKS[worst.state]
