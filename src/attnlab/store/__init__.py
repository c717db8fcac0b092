"""The folders of runs and experiments: what stands in them, under which names, and how it is read and written."""
