"""What must hold when machines, people and files do their worst."""

SMALL = (
    "model.d_model=16",
    "model.context=16",
    "batch_size=2",
    "trainer.max_steps=4",
    "trainer.val_every=2",
    "trainer.checkpoint_every=2",
    "maps.steps=2",
    "maps.probe=one",
    "sample.steps=1",
    "sample.tokens=2",
)
