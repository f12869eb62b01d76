"""Events to the screen, or to plain text in a pipe."""
