"""Training: the LightningModule, a run from config to summary, checkpoints, callbacks."""
