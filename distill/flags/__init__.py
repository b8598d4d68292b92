"""The flags of the command line, by what they are of."""
