"""The parts of the stage `collect`: whom it asks, what it keeps, and the passes over the shards of rows."""
