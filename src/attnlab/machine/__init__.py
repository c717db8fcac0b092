"""The process and the machine it runs on: signals, limits, the environment, the command line. No torch."""
