"""The commands of `fewcore`, each a module: what is typed, read and passed on to the code that does it."""
