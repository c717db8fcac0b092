"""Where what a run records goes: metrics.csv, TensorBoard's event files, trackers; all behind one small interface."""
