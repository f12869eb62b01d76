"""The faces of gemma: parse, call, draw. No arithmetic on models, and nothing heavy imported at the top of a file."""
