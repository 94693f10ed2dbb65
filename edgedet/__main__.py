"""`python -m edgedet VERB`, which torchrun needs: `torchrun -m edgedet train ...`."""

from edgedet.cli import main

if __name__ == "__main__":
    main()
