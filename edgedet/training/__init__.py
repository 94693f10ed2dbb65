"""One loop, recipes, checkpoints, several processes through torchrun."""
