"""What a layer has read: growing, sliding, or nothing kept; and which prefix of a prompt is already there."""
