"""Training: the models in torch, and what turns data and recipes into checkpoints. Never needed on a device."""
