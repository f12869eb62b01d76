"""From a model and ids to Events: prefill, decode, sampling, stopping. Knows a model only as three methods."""
