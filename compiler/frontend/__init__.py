"""From torch.fx (AOTAutograd: inference, forward, backward) to the graph level of the IR."""
