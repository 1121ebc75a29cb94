"""The trainer: a policy that computes, updates and saves, blind to the algorithm that drives it."""
