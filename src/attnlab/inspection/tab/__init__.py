"""The tab "Attention" of TensorBoard: the maps that runs have written, drawn in the browser."""
