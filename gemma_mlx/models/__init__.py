"""One short file per architecture: config to specs, specs to a model, and the names of its tensors."""
