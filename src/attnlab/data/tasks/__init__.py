"""Tasks with a known answer: endless, exact, and each asks for one ability of a sequence mixer."""
