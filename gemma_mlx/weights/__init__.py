"""Files to parameters: where a checkpoint is, what its tensors are called, how they are loaded and saved."""
