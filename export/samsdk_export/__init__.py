"""From a checkpoint to a verified bundle: graphs, parity, files."""
