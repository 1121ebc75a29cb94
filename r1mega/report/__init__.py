"""What a run looks like to a person: curves and the state of its stages."""
