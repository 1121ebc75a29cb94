"""The toy's general requests (`data/toy_requests.py`) as a task."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from r1mega.data import toy_requests
from r1mega.data.tasks.base import Draft, Generated


@dataclass(frozen=True, kw_only=True)
class ToyGeneral(Generated):
    """The gold answer is the best one; its grader is for evaluation, where no reward model judges."""

    name: str = "toy_general"
    grader: str = "toy_general"

    def draw(self, rng: Random, *, held_out: bool) -> Draft:
        request = toy_requests.draw_request(rng, held_out=held_out)
        opening, closing = request.manners.openings[0], request.manners.closings[0]
        return Draft(request.text, request.text, f"{opening}{request.full}{closing}", request.facts)
