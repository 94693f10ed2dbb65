"""`python -m edgedet VERB`, which torchrun needs: `torchrun -m edgedet train ...`."""

from edgedet.cli.main import main

if __name__ == "__main__":
    main()
