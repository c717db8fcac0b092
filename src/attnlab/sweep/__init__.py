"""Many runs that cannot hurt each other: composed, listed, shared out to warm worker processes, and noted."""
