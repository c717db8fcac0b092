"""The attention of models that are not ours."""
