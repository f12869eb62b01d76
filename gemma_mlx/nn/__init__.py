"""The parts Gemmas are made of. They take specs, never configs, and never learn a model's name."""
