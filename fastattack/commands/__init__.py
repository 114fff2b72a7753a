"""Commands of the command line that are more than a screenful, one module each; `fastattack.cli` registers them."""
