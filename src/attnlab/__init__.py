"""attnlab: swap the attention, keep everything else fixed, see what changed, know whether it is real."""
