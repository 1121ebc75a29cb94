"""What an answer is worth. Rules only: each task's answers are graded by its own, and nothing is executed."""

from r1mega.rewards.rubric import DEFAULT_WEIGHTS, GRADERS, Rubric

__all__ = ["DEFAULT_WEIGHTS", "GRADERS", "Rubric"]
