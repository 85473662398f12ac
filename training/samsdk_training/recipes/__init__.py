"""Training recipes: what is trained, on what, with which loss; the loop, the samples and the losses are shared."""
