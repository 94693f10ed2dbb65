"""The command line: `main` finds the verb, every other module is one verb."""
