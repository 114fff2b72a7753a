"""The suite behind `fastattack bench`: correctness first, then A B A B against plain PyTorch and the peers."""
