"""The front door and the conductor: the only folder that sees all the others."""
