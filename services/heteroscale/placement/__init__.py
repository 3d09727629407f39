"""Commands become reserved nodes, close to each other."""
