"""Judgments of answers: what reward models learn from."""
